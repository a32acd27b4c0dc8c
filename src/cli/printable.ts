/**
 * Text of others (a response, an error, a URL) as a terminal may be given it: what would move the cursor, change colours or turn the
 * direction of writing is shown as its code point.
 */
export function printable(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${character.codePointAt(0)?.toString(16) ?? ''}}`,
  );
}
