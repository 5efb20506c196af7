/** A place that somebody claims, or that the photo itself names, against what is believed of it. */

import { useEffect, useState } from "preact/hooks";
import { probability } from "../api";
import { sentence } from "../photos";
import type { Claim, Fix, Place } from "../types";
import { claimInWords, km, position, readPosition } from "../words";

const RADII = [0.1, 0.25, 0.5, 1, 2.5, 10, 25, 100, 200, 750]; // km

export interface Claimed {
  place: Place;
  claim?: Claim | undefined;
}

interface Props {
  photo: File;
  fix: Fix;
  model: string;
  /** The place that is claimed: clicked on the map, typed, or the photo's own. */
  place: Place | undefined;
  onPlace: (place: Place | undefined) => void;
  onClaim: (claim: Claim | undefined) => void;
  center: () => Place | undefined;
}

export function Claims({ photo, fix, model, place, onPlace, onClaim, center }: Props) {
  const [text, setText] = useState("");
  const [withinKm, setWithinKm] = useState<number>();
  const [claim, setClaim] = useState<Claim>();
  const [problem, setProblem] = useState("");
  const own = useOwn(photo, fix, model);

  useEffect(() => {
    if (place) setText(position(place));
  }, [place]);

  useEffect(() => {
    let stale = false;
    setClaim(undefined);
    onClaim(undefined);
    setProblem("");
    if (!place) return;
    probability(photo, place, withinKm, model).then(
      (found) => {
        if (stale) return;
        setClaim(found);
        onClaim(found);
      },
      (error: unknown) => !stale && setProblem(sentence(error)),
    );
    return () => {
      stale = true;
    };
  }, [photo, model, place, withinKm]);

  const submit = (event: Event) => {
    event.preventDefault();
    const found = readPosition(text);
    setProblem(found ? "" : "A place is LAT, LON in degrees, such as 37.7749, -122.4194.");
    if (found) onPlace(found);
  };

  return (
    <section class="claims" aria-labelledby="claims-title">
      <h3 id="claims-title">Was it taken there?</h3>
      {fix.exif && (
        <p class="claim">
          <strong>The photo itself says {position(fix.exif)}.</strong>{" "}
          {own ? claimInWords(own) : `${km(fix.exif.distance_km)} from the answer.`}{" "}
          <button type="button" class="small" onClick={() => onPlace({ lat: fix.exif!.lat, lon: fix.exif!.lon })}>
            Test it
          </button>
        </p>
      )}
      <p class="soft">Click on the map, or name a place, to see how probable it is.</p>
      <form onSubmit={submit}>
        <label>
          Place
          <input
            type="text"
            inputMode="text"
            placeholder="LAT, LON"
            value={text}
            aria-describedby="claim-says"
            onInput={(event) => setText(event.currentTarget.value)}
          />
        </label>
        <label>
          Within
          <select
            value={withinKm ?? ""}
            onChange={(event) => setWithinKm(event.currentTarget.value ? Number(event.currentTarget.value) : undefined)}
          >
            <option value="">the usual error</option>
            {RADII.map((radius) => (
              <option key={radius} value={radius}>
                {km(radius)}
              </option>
            ))}
          </select>
        </label>
        <button type="submit">How probable?</button>
        <button type="button" class="quiet" onClick={() => onPlace(center())}>
          Map centre
        </button>
      </form>
      <p id="claim-says" class="says" role="status">
        {problem || (claim ? claimInWords(claim) : place ? "Asking…" : "")}
      </p>
    </section>
  );
}

/** How the photo's own position fits. */
function useOwn(photo: File, fix: Fix, model: string): Claim | undefined {
  const [own, setOwn] = useState<Claim>();
  useEffect(() => {
    let stale = false;
    setOwn(undefined);
    if (fix.claim && fix.exif && fix.claim.lat === fix.exif.lat && fix.claim.lon === fix.exif.lon) setOwn(fix.claim);
    else if (fix.exif && fix.calibrated) {
      void probability(photo, fix.exif, undefined, model).then(
        (found) => !stale && setOwn(found),
        () => undefined, // the distance is said all the same
      );
    }
    return () => {
      stale = true;
    };
  }, [photo, fix.exif?.lat, fix.exif?.lon, model]);
  return own;
}
