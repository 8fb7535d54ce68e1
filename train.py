"""Entry point: ``python train.py {fit,validate,test} --config configs/<table>/<row>.yaml [--config <overlay>.yaml]``."""

from fpn_lightning.cli import main

if __name__ == "__main__":
    main()
