import { type Floor, NO_FLOOR } from './fan-out.ts';

/** The floor is where the look of so long ago had come: who commits later than that is found by the next full look. */
export const FLOOR_LAG_MS = 2_000;
/** Places are noted so often: what lies above the floor is passed by every look. */
const NOTED_EVERY_MS = 200;

/** From where messages are looked for. Times in ms of one clock that only goes forward. */
export class MessageFloor {
  #floor: Floor = NO_FLOOR;
  /** Above the floor, in their order. */
  #noted: { readonly place: Floor; readonly at: number }[] = [];
  #isFull = true;

  /** The next look is from the beginning. */
  fall(): void {
    this.#isFull = true;
  }

  get(now: number): Floor {
    for (let [next] = this.#noted; next !== undefined && now - next.at >= FLOOR_LAG_MS; [next] = this.#noted) {
      this.#floor = next.place;
      this.#noted.shift();
    }
    return this.#isFull ? NO_FLOOR : this.#floor;
  }

  /**
   * A look took messages up to there. One from the beginning is done when it came to the floor: while an old snapshot is held it passes
   * all that there ever was.
   */
  reached(place: Floor | undefined, now: number): void {
    this.#isFull &&= place !== undefined && place.seq < this.#floor.seq;
    const last = this.#noted.at(-1);
    // Who committed late is no place to go on from.
    if (place === undefined || place.seq <= (last?.place ?? this.#floor).seq) return;
    if (last === undefined || now - last.at >= NOTED_EVERY_MS) this.#noted.push({ place, at: now });
  }
}
