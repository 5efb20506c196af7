/** A value that views watch. */

import { useEffect, useState } from "preact/hooks";

export class Store<T> {
  private readonly watching = new Set<(value: T) => void>();

  constructor(private value: T) {}

  get(): T {
    return this.value;
  }

  set(change: (value: T) => T): void {
    this.value = change(this.value);
    for (const tell of this.watching) tell(this.value);
  }

  watch(tell: (value: T) => void): () => void {
    this.watching.add(tell);
    return () => this.watching.delete(tell);
  }
}

export function useStore<T>(store: Store<T>): T {
  const [value, setValue] = useState(store.get());
  useEffect(() => {
    setValue(store.get());
    return store.watch(setValue);
  }, [store]);
  return value;
}
