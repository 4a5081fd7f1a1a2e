"""How a model pretrained on the source domain is adapted to the target domain.

`load.py` takes over the source model's weights, also into a model that is not quite the same; `config.py` names the
methods and says, as data, which layer groups stay fixed and when they thaw; `freeze.py` does it to the nets. Stands
above the families and below the engine; knows nothing of data, optimizers or files.
"""
