/** Play against the model: five photos of its test set; the truth comes from the server only after the guess. */

import { useEffect, useState } from "preact/hooks";
import * as api from "../api";
import type { Scene } from "../map/scene";
import { frame } from "../map/scene";
import { sentence } from "../photos";
import type { Fix, Game, Guessed, Model, Place } from "../types";
import { count, km } from "../words";
import { Notice } from "./answer";
import { Why } from "./why";

const ROUNDS = 5;

interface Props {
  model: Model;
  /** Whether the server has photos to play with. */
  open: boolean;
  /** Where the player put the pin. */
  place: Place | undefined;
  onPlace: (place: Place | undefined) => void;
  onScene: (scene: Scene) => void;
  center: () => Place | undefined;
  /** Whether the map shows streets. */
  streets: boolean;
}

/** The frame around the cells of a model. */
function edges([[south, west], [north, east]]: Model["bounds"]): [Place, Place][] {
  const corners = [[south, west], [south, east], [north, east], [north, west], [south, west]].map(([lat, lon]) => ({ lat: lat!, lon: lon! }));
  return corners.slice(1).map((corner, i) => [corners[i]!, corner]);
}

export function Play({ model, open, place, onPlace, onScene, center, streets }: Props) {
  const [seed, setSeed] = useState(() => Math.floor(Math.random() * 100_000));
  const [game, setGame] = useState<Game & { seed: number }>();
  const [round, setRound] = useState(0);
  const [photo, setPhoto] = useState<{ blob: Blob; url: string }>();
  const [results, setResults] = useState<Guessed[]>([]);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const result = results[round];
  const over = game !== undefined && results.length === game.rounds && round === game.rounds;

  const attempt = async (step: () => Promise<void>) => {
    setBusy(true);
    setProblem("");
    try {
      await step();
    } catch (error) {
      setProblem(sentence(error));
    }
    setBusy(false);
  };

  const show = async (id: string, index: number) => {
    const blob = await api.roundPhoto(id, index);
    setPhoto((old) => {
      if (old) URL.revokeObjectURL(old.url);
      return { blob, url: URL.createObjectURL(blob) };
    });
  };

  const start = () =>
    attempt(async () => {
      const begun = await api.play(seed, ROUNDS);
      await show(begun.id, 0);
      setGame({ ...begun, seed });
      setRound(0);
      setResults([]);
      onPlace(undefined);
    });

  const guess = () =>
    attempt(async () => {
      if (!game || !place) return;
      const said = await api.guess(game.id, round, place);
      setResults((old) => [...old, said]);
    });

  const next = () =>
    attempt(async () => {
      if (!game) return;
      if (round + 1 < game.rounds) await show(game.id, round + 1);
      setRound(round + 1);
      onPlace(undefined);
    });

  useEffect(() => {
    const all = frame([{ lat: model.bounds[0][0], lon: model.bounds[0][1] }, { lat: model.bounds[1][0], lon: model.bounds[1][1] }]);
    if (!game || over || !result) {
      onScene({
        pins: place && game && !over ? [{ ...place, kind: "you", label: "Your guess" }] : [],
        lines: edges(model.bounds),
        ...(place ? {} : { fit: all }),
      });
      return;
    }
    const guessed = place ?? result.truth;
    onScene({
      pins: [
        { ...guessed, kind: "you", label: `Your guess, ${km(result.error_km_you)} off` },
        { ...result.model, kind: "answer", label: `The model's answer, ${km(result.error_km_model)} off` },
        { ...result.truth, kind: "truth", label: "Where it was taken" },
      ],
      lines: [[guessed, result.truth], [result.model, result.truth]],
      fit: frame([guessed, result.model, result.truth]),
    });
  }, [game, round, results, place, model.id]);

  if (!open) {
    return (
      <section class="play" aria-labelledby="play-title">
        <h2 id="play-title">Play against the model</h2>
        <Notice title="There are no photos to play with">
          Start the page with a data set that has a test part: <code>graticule serve BUNDLE --play DATASET</code>.
        </Notice>
      </section>
    );
  }
  if (!game || over) {
    return (
      <section class="play" aria-labelledby="play-title">
        <h2 id="play-title">{over ? "How it went" : "Play against the model"}</h2>
        {over && <Score game={game} results={results} model={model} />}
        {!over && (
          <p>
            {ROUNDS} photos that the model has not trained on. Put a pin where you think each was taken; the model puts
            its own. The same number gives a friend the same photos. The model knows the frame on the map
            {streets ? "" : "; to have streets to go by, choose them above, under Streets"}.
          </p>
        )}
        <form
          class="row"
          onSubmit={(event) => {
            event.preventDefault();
            void start();
          }}
        >
          <label>
            Number of the game
            <input type="number" min={0} max={4294967295} required value={seed} onInput={(event) => setSeed(Number(event.currentTarget.value))} />
          </label>
          <button type="submit" class="main" disabled={busy}>
            {over ? "Play again" : "Start"}
          </button>
        </form>
        {problem && <Notice title="There is no game">{problem}</Notice>}
      </section>
    );
  }
  return (
    <section class="play" aria-labelledby="play-title">
      <h2 id="play-title">
        Round {round + 1} of {game.rounds}
      </h2>
      {photo && !result && <img class="round-photo" src={photo.url} alt={`The photo of round ${round + 1}`} />}
      <p class="says" role="status">
        {result
          ? `You: ${km(result.error_km_you)} off, ${count(result.points_you)} points. The model: ${km(result.error_km_model)} off, ${count(result.points_model)} points.`
          : place
            ? "Your pin is set. Move it, or guess."
            : `Click on the map where you think this is; it lies in the frame or near it.${streets ? "" : " Streets to go by: choose them above."}`}
        {problem && ` ${problem}`}
      </p>
      <div class="row">
        {result ? (
          <button type="button" class="main" disabled={busy} onClick={() => void next()}>
            {round + 1 < game.rounds ? "Next round" : "See the score"}
          </button>
        ) : (
          <>
            <button type="button" class="main" disabled={busy || !place} onClick={() => void guess()}>
              Guess
            </button>
            <button type="button" class="quiet" onClick={() => onPlace(center())}>
              Pin in the middle of the map
            </button>
          </>
        )}
      </div>
      {results.length > 0 && (
        <p class="soft">
          So far: you {count(total(results, "points_you"))}, the model {count(total(results, "points_model"))}.
        </p>
      )}
      {photo && result && <Because photo={photo} result={result} model={model} round={round} />}
    </section>
  );
}

/** Why the model thought so. */
function Because({ photo, result, model, round }: { photo: { blob: Blob; url: string }; result: Guessed; model: Model; round: number }) {
  const [fix, setFix] = useState<Fix>();
  useEffect(() => {
    void api.locateOne(photo.blob, { model: model.id }).then(setFix, () => undefined);
  }, [photo]);
  const answer = fix ?? ({ ...result.model, median_error_km: null, p90_error_km: null, expected_error_km: null } as Fix);
  return <Why photo={photo.blob} url={photo.url} name={`of round ${round + 1}`} fix={answer} model={model.id} />;
}

const total = (results: Guessed[], whose: "points_you" | "points_model"): number =>
  results.reduce((sum, result) => sum + result[whose], 0);

function shared(game: Game & { seed: number }, results: Guessed[], model: Model): string {
  const bar = (points: number) => "■".repeat(Math.round(points / 1000)).padEnd(5, "□");
  return [
    `Graticule, ${model.name}, game ${game.seed}`,
    ...results.map(({ points_you, points_model }, i) => `${i + 1}  me ${bar(points_you)} ${points_you}  model ${bar(points_model)} ${points_model}`),
    `me ${total(results, "points_you")}, the model ${total(results, "points_model")} of ${5000 * results.length}`,
  ].join("\n");
}

function Score({ game, results, model }: { game: Game & { seed: number }; results: Guessed[]; model: Model }) {
  const [copied, setCopied] = useState(false);
  const [you, its] = [total(results, "points_you"), total(results, "points_model")];
  const text = shared(game, results, model);
  return (
    <>
      <p>
        <strong>{you > its ? "You win." : you < its ? "The model wins." : "A draw."}</strong> You {count(you)}, the model {count(its)} points.
      </p>
      <table>
        <thead>
          <tr>
            <th scope="col">Round</th>
            <th scope="col" class="n">You</th>
            <th scope="col" class="n">Points</th>
            <th scope="col" class="n">Model</th>
            <th scope="col" class="n">Points</th>
          </tr>
        </thead>
        <tbody>
          {results.map((result, i) => (
            <tr key={i}>
              <th scope="row">{i + 1}</th>
              <td class="n">{km(result.error_km_you)}</td>
              <td class="n">{count(result.points_you)}</td>
              <td class="n">{km(result.error_km_model)}</td>
              <td class="n">{count(result.points_model)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <label class="share">
        To share
        <textarea readOnly rows={results.length + 2} value={text} onFocus={(event) => event.currentTarget.select()} />
      </label>
      {navigator.clipboard && (
        <button type="button" class="small" onClick={() => void navigator.clipboard.writeText(text).then(() => setCopied(true))}>
          {copied ? "Copied" : "Copy"}
        </button>
      )}
    </>
  );
}
