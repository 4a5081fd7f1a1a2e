"""The names of the files that a trained model is, for those who look for them without loading torch."""

WEIGHTS_FILE = "snapshot.safetensors"
DESCRIPTION_FILE = "snapshot.json"
ADAPTER_FILE = "adapter.safetensors"  # what the method `lora` learnt beside its source model ...
ADAPTER_DESCRIPTION_FILE = "adapter.json"  # ... and what that is
