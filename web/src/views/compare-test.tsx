/** Two bundles on the same test set: the errors of both, photo by photo. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import * as api from "../api";
import type { Scene } from "../map/scene";
import { frame } from "../map/scene";
import { sentence } from "../photos";
import type { Model, Tested } from "../types";
import { count, km, median } from "../words";

const SOME = [50, 200, 1000]; // photos, or all
const AT_ONCE = 4; // questions under way; the service batches them
const LISTED = 50;

/** What both said of one photo. */
interface Pair {
  number: number;
  a: Tested;
  b: Tested;
}

interface Props {
  a: Model;
  b: Model;
  /** How many the test set has. */
  photos: number;
  onScene: (scene: Scene) => void;
}

export function CompareTest({ a, b, photos, onScene }: Props) {
  const choices = [...SOME.filter((some) => some < photos), photos];
  const [wanted, setWanted] = useState(choices[0]!);
  const [pairs, setPairs] = useState<Pair[]>([]);
  const [running, setRunning] = useState<AbortController>();
  const [problem, setProblem] = useState("");
  const [selected, setSelected] = useState<number>();
  const byGap = useMemo(() => [...pairs].sort((x, y) => gap(y) - gap(x)), [pairs]);
  const one = pairs.find(({ number }) => number === selected);

  const start = async () => {
    const control = new AbortController();
    setRunning(control);
    setProblem("");
    const done = new Set(pairs.map(({ number }) => number));
    const waiting = [...Array(wanted).keys()].filter((number) => !done.has(number));
    const work = async () => {
      for (let number = waiting.shift(); number !== undefined && !control.signal.aborted; number = waiting.shift()) {
        const of = (model: Model) => api.tested(number!, model.id, control.signal);
        const pair = { number, a: await of(a), b: await of(b) };
        setPairs((old) => [...old, pair]);
      }
    };
    try {
      await Promise.all(Array.from({ length: AT_ONCE }, work));
    } catch (error) {
      if (!control.signal.aborted) setProblem(sentence(error));
      control.abort();
    }
    setRunning((now) => (now === control ? undefined : now));
  };
  const latest = useRef<AbortController>(undefined);
  latest.current = running;
  useEffect(() => () => latest.current?.abort(), []);

  useEffect(() => {
    if (!one) {
      const [[south, west], [north, east]] = a.bounds;
      onScene({ fit: frame([{ lat: south, lon: west }, { lat: north, lon: east }]) });
      return;
    }
    onScene({
      pins: [
        { ...one.a.fix, kind: "answer", label: `${a.name}: ${km(one.a.error_km)} off` },
        { ...one.b.fix, kind: "other", label: `${b.name}: ${km(one.b.error_km)} off` },
        { ...one.a.truth, kind: "truth", label: "Where it was taken" },
      ],
      lines: [[one.a.fix, one.a.truth], [one.b.fix, one.a.truth]],
      legend: { answer: a.name, other: b.name },
      fit: frame([one.a.fix, one.b.fix, one.a.truth]),
    });
  }, [one, a.id]);

  return (
    <>
      <div class="row">
        <label>
          Ask about
          <select value={wanted} onChange={(event) => setWanted(Number(event.currentTarget.value))}>
            {choices.map((some) => (
              <option key={some} value={some}>
                {some === photos ? `all ${count(some)}` : `${count(some)} by chance`}
              </option>
            ))}
          </select>
        </label>
        {running ? (
          <button type="button" onClick={() => running.abort()}>
            Stop
          </button>
        ) : (
          <button type="button" class="main" disabled={pairs.length >= wanted} onClick={() => void start()}>
            {pairs.length ? "Go on" : "Compare"}
          </button>
        )}
      </div>
      <p class="says" role="status">
        {running && <progress max={1} value={pairs.length / wanted} aria-label="Comparing" />}
        {problem || (pairs.length > 0 && verdict(pairs, a, b))}
      </p>
      {pairs.length > 0 && <Sums pairs={pairs} a={a} b={b} />}
      {one && <Shown pair={one} />}
      {pairs.length > 0 && (
        <div class="scroll" tabIndex={0} role="group" aria-label="Where the two differ most">
          <table>
            <caption>Where they differ most</caption>
            <thead>
              <tr>
                <th scope="col">Photo</th>
                <th scope="col" class="n">● error</th>
                <th scope="col" class="n">■ error</th>
              </tr>
            </thead>
            <tbody>
              {byGap.slice(0, LISTED).map((pair) => (
                <tr key={pair.number}>
                  <td>
                    <button type="button" class="link" aria-current={pair.number === selected ? "true" : undefined} onClick={() => setSelected(pair.number)}>
                      {pair.number + 1}
                    </button>
                  </td>
                  <td class="n">{km(pair.a.error_km)}</td>
                  <td class="n">{km(pair.b.error_km)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}

const gap = ({ a, b }: Pair): number => Math.abs(Math.log((a.error_km + 0.001) / (b.error_km + 0.001)));

/** Who was nearer, and whether a fair coin would have told them apart so clearly (a sign test, by the normal curve). */
function verdict(pairs: Pair[], a: Model, b: Model): string {
  const [nearerA, nearerB] = [pairs.filter(({ a, b }) => a.error_km < b.error_km).length, pairs.filter(({ a, b }) => b.error_km < a.error_km).length];
  const told = nearerA + nearerB;
  if (!told) return `Of ${count(pairs.length)} photos both have the same answers.`;
  const apart = Math.abs(nearerA - nearerB) > 1.96 * Math.sqrt(told);
  const said = `Of ${count(pairs.length)} photos ${a.name} is nearer on ${count(nearerA)}, ${b.name} on ${count(nearerB)}`;
  return apart ? `${said}.` : `${said}: too few to tell them apart.`;
}

function Sums({ pairs, a, b }: { pairs: Pair[]; a: Model; b: Model }) {
  const rows = [
    { name: a.name, mark: "mark-a", pin: "●", all: pairs.map(({ a }) => a) },
    { name: b.name, mark: "mark-b", pin: "■", all: pairs.map(({ b }) => b) },
  ];
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">Model</th>
          <th scope="col" class="n">Median error</th>
          <th scope="col" class="n">Mean</th>
          <th scope="col" class="n">Nine of ten</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(({ name, mark, pin, all }) => {
          const errors = all.map(({ error_km }) => error_km).sort((x, y) => x - y);
          return (
            <tr key={pin}>
              <th scope="row">
                <span aria-hidden="true" class={mark}>
                  {pin}
                </span>{" "}
                {name}
              </th>
              <td class="n">{km(median(errors))}</td>
              <td class="n">{km(errors.reduce((sum, error) => sum + error, 0) / errors.length)}</td>
              <td class="n">{km(errors[Math.ceil(0.9 * errors.length) - 1])}</td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}

function Shown({ pair }: { pair: Pair }) {
  const [url, setUrl] = useState<string>();
  useEffect(() => {
    let made: string | undefined;
    let gone = false;
    void api.testPhoto(pair.number).then(
      (blob) => !gone && setUrl((made = URL.createObjectURL(blob))),
      () => undefined,
    );
    return () => {
      gone = true;
      if (made) URL.revokeObjectURL(made);
    };
  }, [pair.number]);
  return <img class="round-photo" src={url} alt={`Photo ${pair.number + 1} of the test set`} />;
}
