/** Tells for how long something has waited while nothing moved. Times in ms of one clock that only goes forward. */
export class Standstill {
  #since: number | undefined;
  #mark: string | undefined;

  /**
   * @param waits whether something waits now; false too where that could not be found out, since then it is somebody else's fault
   * @param mark becomes another whenever something moved
   */
  observe(waits: boolean, mark: string, now: number): void {
    if (!waits) this.#since = undefined;
    else if (this.#since === undefined || mark !== this.#mark) this.#since = now;
    this.#mark = mark;
  }

  forMs(now: number): number {
    return this.#since === undefined ? 0 : now - this.#since;
  }
}
