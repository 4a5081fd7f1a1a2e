"""What a stage is named by and where its outputs are kept: fingerprints, the code they cover, and the store.

Reading order: `atomic.py` (a file appears whole or not at all), `fingerprint.py` (from parameters, inputs and code to
one hash), `closure.py` (which code a stage runs), `lock.py` (one worker per fingerprint), `record.py`, `store.py` and
`local.py` (objects by content, records by fingerprint), `garbage.py` (what nobody refers to); `s3.py` and what its
first lines name keep the same on S3. The floor of the house: it knows nothing of images, models or stages, imports only
`errors.py`, and needs nothing but the standard library (for S3, boto3), so that a cached run answers at once.
"""
