"""Does the miniature understand prompts that no training caption is like? Forty paraphrases.

    python experiments/paraphrases.py --out out/paraphrases

Twenty wordings of each prompt of the first report on this transfer, one stock picture each, scored
by the oracle: is the object there, and has it its colours? Writes a sheet and a table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tqdm.auto import tqdm

import densenb as dnb
from densenb.evaluation.measure import score_layout
from densenb.evaluation.runner import best_device, draw, latent_shape
from densenb.evaluation.tables import aligned
from densenb.plots.pictures import sheet as contact_sheet

CAT = """\
cat with red umbrella
a cat holding a red umbrella
a cat under a red umbrella
red umbrella, cat
a small cat and its red umbrella
the cat has a red umbrella
picture of a cat carrying an umbrella that is red
an umbrella, red, above a cat
a happy cat sits below a bright red umbrella
a cat standing beside one red umbrella
a red umbrella over a curious cat
cat. red umbrella.
a cat walking with a red umbrella
one cat, one umbrella, the umbrella is red
a cat waiting near its red umbrella
a red umbrella for a cat
a cat who loves a red umbrella
there is a cat and there is a red umbrella
a cute cat with an umbrella of red
rainy day: a cat with a red umbrella"""
SQUID = """\
A magnificent squid, shimmering in shades of deep indigo and vibrant teal, glides gracefully \
through an enchanting rose garden where blossoms of crimson, blush, and gold radiate under the \
soft, dappled sunlight
a squid of indigo and teal gliding through a rose garden
in a rose garden of crimson, blush and gold, an indigo and teal squid floats
a magnificent indigo and teal squid among roses
a squid, half indigo and half teal, in a garden of roses
an enchanting rose garden, and in it a squid in indigo and teal
indigo and teal squid in a rose garden under soft sunlight
a shimmering squid glides through a rose garden, its shades deep indigo and vibrant teal
the squid is indigo and teal and the rose garden is gold and crimson
a graceful squid colored indigo and teal over crimson roses
a rose garden with crimson blossoms where an indigo and teal squid swims
a vibrant indigo and teal squid drifts across a rose garden
a squid with indigo and teal skin, in a sunny rose garden
soft dappled sunlight on an indigo and teal squid in a rose garden
a big squid in deep indigo and bright teal visits a rose garden
a dreamy rose garden, gold and blush, with a squid of indigo and teal
a majestic squid, deep indigo above and teal below, in a rose garden
squid, indigo, teal, rose garden, sunlight
a teal and indigo squid floating in the rose garden
a strange sight: an indigo and teal squid in a rose garden"""
PROMPTS = {
    "cat with red umbrella": (CAT.splitlines(), ("cat", "red umbrella")),
    "magnificent squid": (SQUID.splitlines(), ("indigo and teal squid",)),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/paraphrases"))
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    pipe = dnb.load("tiny", device=best_device())
    this, sheet, lines, rows = dnb.tier(pipe), {}, [["prompt", "object", "present", "colour"]], []
    for name, (texts, phrases) in PROMPTS.items():
        # Where things stand is not asked. The region only says how large an object has to be at
        # least to count as present: 15 % of it, 0.6 % of the picture.
        regions = [dnb.Region(phrase, dnb.box(0.4, 0.4, 0.6, 0.6)) for phrase in phrases]
        wanted, pictures = dnb.Layout(", ".join(phrases), regions), []
        for seed, text in enumerate(tqdm(texts, desc=name, unit="picture")):
            generator = torch.Generator().manual_seed(seed)
            latents = torch.randn((1, *latent_shape(pipe)), generator=generator)
            asked = dnb.Layout(text, [dnb.Region(text, dnb.box(0, 0, 1, 1))])
            pictures.append(draw(pipe, None, [asked], latents, this.steps, this.guidance)[0])
        sheet[f"{name}: {this.label}, {this.steps} steps, seeds 0 to {len(texts) - 1}"] = pictures
        found = score_layout(torch.stack(pictures), wanted)
        for i, phrase in enumerate(phrases):
            present, bound = found.present[:, i], found.colour_bound[:, i].nan_to_num()
            row = {"prompt": name, "object": phrase, "texts": len(texts)}
            row |= {"present": int(present.sum()), "colour": int(bound.sum())}
            rows.append(row)
            colour = row["colour"] if " " in phrase else "-"
            lines.append([name, phrase, f"{row['present']}/{len(texts)}", str(colour)])
    contact_sheet(sheet).save(out / "sheet.png")
    (out / "table.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(aligned(lines))
    print(f"Pictures: {out / 'sheet.png'}")


if __name__ == "__main__":
    main()
