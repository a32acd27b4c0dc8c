/** The clock that all processes of a machine share; the receiver writes down arrivals by it. */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
