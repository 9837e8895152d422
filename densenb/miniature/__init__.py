"""The bundled miniature of SD 3.5 and its synthetic world.

`world.py` renders scenes with exact masks, `captions.py` describes them, `oracle.py` names the
objects in a picture. `models.py` builds the models; `training/` trains them. Weights are in
`assets/`, with a model card.
"""
