/** The page: what is asked on one side, the map on the other. */

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { service as askService, ServiceError, openWith } from "./api";
import type { Theme } from "./map/layers";
import { atlas } from "./map/served";
import type { Scene } from "./map/scene";
import type { Streets } from "./map/streets";
import { album as albumStore, choose, select, sentence } from "./photos";
import { useStore } from "./store";
import type { Place, Service } from "./types";
import { Notice } from "./views/answer";
import { Compare } from "./views/compare";
import { Header } from "./views/header";
import type { Tab } from "./views/header";
import { Locate } from "./views/locate";
import { MapView } from "./views/map-view";
import { Play } from "./views/play";

export function App() {
  const album = useStore(albumStore);
  const [service, setService] = useState<Service>();
  const [problem, setProblem] = useState("");
  const [tab, setTab] = useState<Tab>("locate");
  const [scene, setScene] = useState<Scene>({});
  const [place, setPlace] = useState<Place>();
  const [theme, setTheme] = useTheme();
  const [streets, setStreets] = useState<Streets>({ kind: "none" });
  const center = useRef<() => Place | undefined>(null);
  const middle = useCallback(() => center.current?.(), []);
  const model = service?.models.find(({ id }) => id === album.model) ?? service?.models[0];

  const [locked, setLocked] = useState(false);
  const open = () =>
    askService().then(
      (found) => {
        setService(found);
        setLocked(false);
        setProblem("");
        if (found.models[0]) choose(found.models[0].id);
      },
      (error: unknown) => {
        setLocked(error instanceof ServiceError && error.status === 401);
        setProblem(sentence(error));
      },
    );
  useEffect(() => void open(), []);
  useEffect(() => setPlace(undefined), [album.selected, tab]);

  const view = { place, onPlace: setPlace, onScene: setScene, center: middle };
  return (
    <>
      <Header
        models={service?.models ?? []}
        model={album.model}
        onModel={choose}
        tab={tab}
        onTab={setTab}
        theme={theme}
        onTheme={setTheme}
        streets={streets}
        onStreets={setStreets}
        tiles={service?.street_map ?? null}
      />
      <main class="page">
        <div class="panel" id={`view-${tab}`} role="tabpanel" aria-labelledby={`tab-${tab}`} tabIndex={-1}>
          {problem && <Notice title="That did not work">{problem}</Notice>}
          {locked && (
            <Key
              onKey={(key) => {
                openWith(key);
                void open();
              }}
            />
          )}
          {model && tab === "locate" && <Locate album={album} model={model} coarsestKm={service?.coarsest_answer_km ?? null} {...view} />}
          {model && tab === "play" && <Play key={model.id} model={model} open={!!service?.test_photos} streets={streets.kind !== "none"} {...view} />}
          {service && model && tab === "compare" && <Compare album={album} models={service.models} testPhotos={service.test_photos} onScene={setScene} />}
        </div>
        <MapView
          scene={scene}
          theme={theme}
          streets={streets}
          atlas={atlas}
          onClick={setPlace}
          onDot={select}
          onStreetsFailed={(why) => {
            setStreets({ kind: "none" });
            setProblem(why);
          }}
          center={center}
        />
      </main>
    </>
  );
}

/** Where the server asks who is there; the key is forgotten when the page closes. */
function Key({ onKey }: { onKey: (key: string) => void }) {
  const [key, setKey] = useState("");
  return (
    <form
      class="row"
      onSubmit={(event) => {
        event.preventDefault();
        onKey(key.trim());
      }}
    >
      <label>
        Key of this server
        <input type="password" autocomplete="off" required value={key} onInput={(event) => setKey(event.currentTarget.value)} />
      </label>
      <button type="submit" class="main">
        Open
      </button>
    </form>
  );
}

const DARK = matchMedia("(prefers-color-scheme: dark)");

/** The reader's choice, else what the system says. */
function useTheme(): [Theme, (theme: Theme) => void] {
  const [chosen, setChosen] = useState(localStorage.getItem("theme") as Theme | null);
  const [dark, setDark] = useState(DARK.matches);
  const theme = chosen ?? (dark ? "dark" : "light");
  useEffect(() => {
    const follow = () => setDark(DARK.matches);
    DARK.addEventListener("change", follow);
    return () => DARK.removeEventListener("change", follow);
  }, []);
  useEffect(() => {
    document.documentElement.dataset["theme"] = theme;
  }, [theme]);
  const choose = (next: Theme) => {
    localStorage.setItem("theme", next);
    setChosen(next);
  };
  return [theme, choose];
}
