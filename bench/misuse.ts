/** It was asked for something that there is not. */
export class Misuse extends Error {}

/** Of ours, or of what `parseArgs` makes of arguments. */
export function isMisuse(error: unknown): error is Error {
  if (error instanceof Misuse) return true;
  return error instanceof TypeError && 'code' in error && `${error.code}`.startsWith('ERR_PARSE_ARGS');
}
