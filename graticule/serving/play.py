"""Photos whose place is known: a game, the player's pin against the model's; and a test set to compare models on."""

import asyncio
import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from fastapi import FastAPI
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from graticule.errors import BadTableError
from graticule.evaluation.evaluate import choose_photos, training_photos
from graticule.evaluation.metrics import map_score
from graticule.geo.sphere import great_circle_km, map_scale
from graticule.inference.claims import Place
from graticule.inference.decode import Fix
from graticule.model.loading import read_bytes
from graticule.photos.images import thumbnail
from graticule.photos.table import Photos, read_photos
from graticule.serving import examples, problems
from graticule.serving.asks import Ask
from graticule.serving.problems import Refusal
from graticule.serving.service import Model, Service
from graticule.serving.shapes import view_of

SHOWN_PX = 1280  # longer side of a photo that is shown
MOST_ROUNDS = 20
PHOTO: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}, "description": "A JPEG."}}


@dataclass(eq=False)
class Play:
    """The photos of a game.

    Attributes:
        photos: with true positions; none of them trained the model.
        scale_km: diagonal of the map, on which points are counted.
    """

    photos: Photos
    scale_km: float
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def rows(self, seed: int, rounds: int) -> list[int]:
        """The photos of one game; the same for the same seed."""
        chosen = np.random.default_rng(seed).choice(len(self.photos), min(rounds, len(self.photos)), replace=False)
        return [int(row) for row in chosen]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Rows in an order that says nothing, so that the first of them stand for all."""
        return np.random.default_rng(0).permutation(len(self.photos))

    def sign(self, seed: int, rounds: int) -> str:
        """A game's name, from which it is dealt again: nothing is kept."""
        text = json.dumps([seed, rounds]).encode()
        mac = hmac.digest(self.key, text, hashlib.sha256)[:16]
        return urlsafe_b64encode(mac + text).decode("ascii").rstrip("=")

    def row(self, name: str, number: int) -> int:
        """The photo of a round.

        Raises:
            Refusal: no such game or round.
        """
        try:
            raw = urlsafe_b64decode(name + "=" * (-len(name) % 4))
            if not hmac.compare_digest(raw[:16], hmac.digest(self.key, raw[16:], hashlib.sha256)[:16]):
                raise ValueError
            seed, rounds = json.loads(raw[16:])
        except ValueError as error:  # that of base64 and of JSON too
            raise Refusal(404, "there is no such game, or the server was started anew; begin another") from error
        rows = self.rows(seed, rounds)
        if not 0 <= number < len(rows):
            raise Refusal(404, f"the game has the rounds 0 to {len(rows) - 1}; found {number}")
        return rows[number]


def open_play(dataset: Path, models: Sequence[Model]) -> Play:
    """The test part of a dataset, as the first bundle's training wrote it down, or the whole where it does not know it.

    What another bundle trained on is left out.

    Raises:
        BadTableError: there are no such photos.
    """
    photos, model = read_photos(dataset), models[0]
    training = training_photos(model.locator.bundle)
    chosen = choose_photos(photos, training, "all" if training is None and not photos.has("split") else "test")
    for other in models[1:]:
        if (training := training_photos(other.locator.bundle)) is not None:
            trained = training.frame.filter(pl.col("split") != "test").select("path", "lat", "lon").unique()
            found = chosen.frame.select("path", "lat", "lon").join(
                trained.with_columns(trained=True), on=["path", "lat", "lon"], how="left", maintain_order="left"
            )
            chosen = chosen.take(found["trained"].is_null().to_numpy())
    if not len(chosen):
        raise BadTableError(f"the bundles trained on all photos of {dataset} that one of them did not; serve one alone")
    scale_km = model.locator.bundle.facts.get("map_diagonal_km")
    if scale_km is None:
        scale_km = map_scale(model.locator.bundle.partition.lat, model.locator.bundle.partition.lon, None)[0]
    return Play(chosen, float(scale_km))


class NewGame(BaseModel):
    """A game to begin; the same seed deals the same photos."""

    seed: int | None = Field(None, ge=0, le=2**53)
    rounds: int = Field(5, ge=1, le=MOST_ROUNDS)


class Guess(BaseModel):
    """Where the player puts the pin, degrees."""

    lat: float = Field(ge=-90, le=90)
    lon: float = Field(ge=-180, le=180)


class WhichModel(BaseModel):
    """The model that answers, by its id; the first where none is named."""

    model: str | None = None


def routes(app: FastAPI, service: Service, play: Play) -> None:
    """Add the addresses of the game and of the test set."""

    def shown(row: int) -> Response:
        """A photo made anew without what the camera wrote beside it."""
        data = thumbnail(read_bytes(play.photos.paths()[row]), SHOWN_PX)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    async def answered(row: int, model: str | None) -> tuple[Place, Fix]:
        """Where a photo was taken, and what a model says."""
        asked = service.model(model)
        ask = Ask((await asyncio.to_thread(read_bytes, play.photos.paths()[row]),), (None,))
        [answer] = await service.ask(asked, ask)
        view = await asyncio.to_thread(view_of, asked, answer, ask, None)
        return (float(play.photos.lat[row]), float(play.photos.lon[row])), view.fix

    @app.post("/v1/play", responses={200: examples.PLAY})
    def begin(game: NewGame) -> dict[str, Any]:
        """Deal a game; the same seed deals the same photos."""
        seed = secrets.randbelow(2**31) if game.seed is None else game.seed
        rounds = len(play.rows(seed, game.rounds))
        return {"id": play.sign(seed, rounds), "seed": seed, "rounds": rounds, "scale_km": round(play.scale_km, 4)}

    @app.get("/v1/play/{game}/{number}/photo", response_class=Response, responses=PHOTO | problems.MISSING)
    def photo(game: str, number: int) -> Response:
        """The photo of a round."""
        return shown(play.row(game, number))

    @app.post("/v1/play/{game}/{number}/guess", responses=problems.MISSING | {200: examples.GUESS})
    async def guess(game: str, number: int, pin: Guess, model: str | None = None) -> dict[str, Any]:
        """Put the pin; the answer tells the truth, the model's pin, and both one's points."""
        truth, fix = await answered(play.row(game, number), model)
        you = float(great_circle_km(pin.lat, pin.lon, *truth))
        its = float(great_circle_km(fix.lat, fix.lon, *truth))
        points = np.round(map_score([you, its], play.scale_km)).astype(int)
        return {
            "truth": {"lat": round(truth[0], 7), "lon": round(truth[1], 7)},
            "model": {"lat": round(fix.lat, 7), "lon": round(fix.lon, 7)},
            "points_you": int(points[0]),
            "points_model": int(points[1]),
            "error_km_you": round(you, 4),
            "error_km_model": round(its, 4),
        }

    def test_row(number: int) -> int:
        if not 0 <= number < len(play.order):
            raise Refusal(404, f"the test set has the photos 0 to {len(play.order) - 1}; found {number}")
        return int(play.order[number])

    @app.get("/v1/test/{number}/photo", response_class=Response, responses=PHOTO | problems.MISSING)
    def test_photo(number: int) -> Response:
        """A photo of the test set; their order is one of chance."""
        return shown(test_row(number))

    @app.post("/v1/test/{number}", responses=problems.MISSING | {200: examples.TEST})
    async def test(number: int, which: WhichModel) -> dict[str, Any]:
        """Where a photo of the test set was taken, what a model says, and how far off that is."""
        truth, fix = await answered(test_row(number), which.model)
        error_km = float(great_circle_km(fix.lat, fix.lon, *truth))
        return {
            "truth": {"lat": round(truth[0], 7), "lon": round(truth[1], 7)},
            "error_km": round(error_km, 4),
            "fix": fix.to_json(),
        }
