/** What the model says of one photo, in words: also that it cannot tell, and that the photo is unlike all it knows. */

import "./parts.css";

import type { ComponentChildren } from "preact";
import type { Fix, Model } from "../types";
import { area, count, errorInWords, FEW_PHOTOS, isUnlike, km, percent, position } from "../words";

export function Answer({ fix, model }: { fix: Fix; model: Model | undefined }) {
  const unlike = isUnlike(fix);
  return (
    <section class="answer" aria-label="The answer" aria-live="polite">
      {unlike && (
        <Notice title="Unlike what this model knows">
          Of a hundred photos that did not train it, {Math.floor(100 * (fix.unlike_training ?? 0))} are more like a
          training photo than this one. The place below is a guess whose error is not known.
        </Notice>
      )}
      {fix.cannot_tell ? (
        <Notice title="Cannot tell">This model gives no answer here: {fix.cannot_tell}.</Notice>
      ) : (
        <>
          <h2>{fix.near ? `Near ${fix.near}` : position(fix)}</h2>
          <p class="error">{errorInWords(fix)}</p>
          {model && model.photos_trained !== null && model.photos_trained < FEW_PHOTOS && (
            <p class="soft">
              This model learned from {count(model.photos_trained)} photos only: its answers and its word on claims are weak.
            </p>
          )}
        </>
      )}
      {!unlike && <Places fix={fix} />}
      <dl class="facts">
        {!fix.cannot_tell && (
          <>
            <dt>Point</dt>
            <dd>
              <span class="number">{position(fix)}</span> <Copy text={position(fix)} />
            </dd>
          </>
        )}
        {fix.area_km2 !== null && !unlike && (
          <>
            <dt>90 % region</dt>
            <dd>{area(fix.area_km2)}</dd>
          </>
        )}
        {fix.expected_error_km !== null && !unlike && (
          <>
            <dt>Expected error</dt>
            <dd>{km(fix.expected_error_km)} on average</dd>
          </>
        )}
      </dl>
      <Neighbours fix={fix} />
      {fix.cells.length > 0 && (
        <details>
          <summary>What the network itself says{model ? ` of its ${model.cells.toLocaleString("en-US")} cells` : ""}</summary>
          <table>
            <thead>
              <tr>
                <th scope="col">Cell</th>
                <th scope="col">Middle of its photos</th>
                <th scope="col" class="n">
                  Probability
                </th>
              </tr>
            </thead>
            <tbody>
              {fix.cells.map((cell) => (
                <tr key={cell.token}>
                  <td>
                    <code>{cell.token}</code>
                  </td>
                  <td class="number">{position(cell)}</td>
                  <td class="n">{percent(cell.probability)}</td>
                </tr>
              ))}
            </tbody>
          </table>
          <p class="soft">The network's own probabilities, not calibrated against outcomes.</p>
        </details>
      )}
    </section>
  );
}

function Places({ fix }: { fix: Fix }) {
  if (!fix.places.length) return null;
  return (
    <ul class="places" aria-label="Likely places">
      {fix.places.map(({ name, probability }) => (
        <li key={name}>
          <span class="place-name">{name}</span>
          <span class="number">{percent(probability)}</span>
          <span class="bar" aria-hidden="true">
            <span style={{ width: `${probability * 100}%` }} />
          </span>
        </li>
      ))}
    </ul>
  );
}

/** Known photos that look most alike: with pictures where the server has their files. */
function Neighbours({ fix }: { fix: Fix }) {
  const near = fix.neighbours ?? [];
  if (!near.length) return null;
  return (
    <details open={near.some(({ thumbnail }) => thumbnail)} class="neighbours">
      <summary>Known photos that look alike, and their share in the answer</summary>
      <ul>
        {near.map((one, i) => (
          <li key={i}>
            {one.thumbnail && <img src={one.thumbnail} alt={`A known photo taken at ${position(one)}`} />}
            <span>
              {position(one)}
              {one.similarity !== undefined && `: ${percent(one.similarity)}`}
              {one.distance_km !== undefined && `, ${km(one.distance_km)} from the answer`}
            </span>
          </li>
        ))}
      </ul>
    </details>
  );
}

export function Notice({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="notice">
      <strong>{title}</strong>
      {children && <p>{children}</p>}
    </div>
  );
}

function Copy({ text }: { text: string }) {
  if (!navigator.clipboard) return null;
  return (
    <button type="button" class="small" onClick={() => void navigator.clipboard.writeText(text)}>
      Copy
    </button>
  );
}
