import fc from 'fast-check';

type Bytes = readonly [number, number, number, number];

/** IPv4 addresses that no webhook may reach; the first is where the tests listen. */
const INSIDE: readonly Bytes[] = [
  [127, 0, 0, 1],
  [127, 1, 2, 3],
  [0, 0, 0, 0],
  [10, 0, 0, 1],
  [172, 16, 0, 1],
  [192, 168, 1, 1],
  [169, 254, 169, 254],
  [100, 64, 0, 1],
  [168, 63, 129, 16],
  [224, 0, 0, 1],
  [255, 255, 255, 255],
];

const hex = (high: number, low: number) => ((high << 8) | low).toString(16);

/** 1 to 4 parts, each decimal, octal or hexadecimal, padded: as `inet_aton` and every URL parser since reads them. */
const numbers = (bytes: Bytes) =>
  fc
    .record({
      parts: fc.integer({ min: 1, max: 4 }),
      bases: fc.tuple(...Array.from({ length: 4 }, () => fc.constantFrom(8, 10, 16))),
      padding: fc.integer({ min: 0, max: 6 }),
      isUpper: fc.boolean(),
    })
    .map(({ parts, bases, padding, isUpper }) => {
      const head = bytes.slice(0, parts - 1);
      const tail = bytes.slice(parts - 1).reduce((sum, byte) => sum * 256 + byte, 0);
      return [...head, tail]
        .map((value, index) => {
          const base = bases[index] ?? 10;
          const digits = isUpper ? value.toString(base).toUpperCase() : value.toString(base);
          if (base === 10) return digits;
          return `${base === 8 ? '0' : isUpper ? '0X' : '0x'}${'0'.repeat(padding)}${digits}`;
        })
        .join('.');
    });

const FULL_WIDTH_OFFSET = 0xfee0;
const fullWidth = (text: string) =>
  text.replaceAll(/[0-9a-zA-Z]/g, (char) => String.fromCharCode(char.charCodeAt(0) + FULL_WIDTH_OFFSET));
const percentEncoded = (text: string) =>
  text.replaceAll(/[0-9a-zA-Z]/g, (char) => `%${char.charCodeAt(0).toString(16)}`);

/** What the URL parser undoes before it looks for an address. */
const DISGUISES: readonly ((host: string) => string)[] = [
  (host) => host,
  (host) => `${host}.`,
  fullWidth,
  percentEncoded,
  (host) => percentEncoded(fullWidth(host).normalize('NFKC')),
  (host) => host.replaceAll('.', '。'),
  (host) => host.replaceAll('.', '．'),
  (host) => host.replaceAll('.', '｡'),
  (host) => host.replaceAll('.', '%2e'),
  // A soft hyphen and a zero-width space, which IDNA drops.
  (host) => `${host.slice(0, 1)}\u00AD${host.slice(1)}`,
  (host) => `${host}\u200B`,
  (host) => `${host.slice(0, 1)}\t${host.slice(1)}`,
];

const disguised = (bytes: Bytes) =>
  fc.tuple(numbers(bytes), fc.constantFrom(...DISGUISES)).map(([host, disguise]) => disguise(host));

/** IPv6 addresses that carry an IPv4 one, or have no business on the Internet. */
const carried = (bytes: Bytes) => {
  const [a, b, c, d] = bytes;
  const [high, low] = [hex(a, b), hex(c, d)];
  const dotted = bytes.join('.');
  const inverted = `${hex(255 - a, 255 - b)}:${hex(255 - c, 255 - d)}`;
  return fc
    .constantFrom(
      `::ffff:${dotted}`,
      `::ffff:${high}:${low}`,
      `0:0:0:0:0:ffff:${high}:${low}`,
      `0000:0000:0000:0000:0000:ffff:${high}:${low}`,
      // Compatible, translated, NAT64 (also the local one), 6to4, Teredo (its client and its server), ISATAP.
      `::${dotted}`,
      `::${high}:${low}`,
      `::ffff:0:${dotted}`,
      `64:ff9b::${dotted}`,
      `64:ff9b::${high}:${low}`,
      `64:ff9b:1::${high}:${low}`,
      `2002:${high}:${low}::1`,
      `2002:${high}:${low}:0:0:5efe:${high}:${low}`,
      `2001:0:808:808:0:0:${inverted}`,
      `2001:0:${high}:${low}::`,
      `fe80::5efe:${dotted}`,
      `fe80::200:5efe:${high}:${low}`,
      '::1',
      '::',
      '0:0:0:0:0:0:0:1',
      '0::0001',
      'fc00::1',
      'fd00:ec2::254',
      'fe80::1',
      'fe80::1%25lo',
      'fe80::1%lo',
      '::1%25lo',
      'fec0::1',
      'ff02::1',
      '100::1',
      '2001:db8::1',
      '3fff::1',
      '5f00::1',
    )
    .chain((address) => fc.constantFrom(`[${address}]`, `[${address.toUpperCase()}]`));
};

const host = fc.constantFrom(...INSIDE).chain((bytes) => fc.oneof(disguised(bytes), disguised(bytes), carried(bytes)));

/** What may stand around a host, as those who look for it with a regular expression get wrong. */
const AROUND: readonly ((host: string, port: string) => string)[] = [
  (name, port) => `http://${name}:${port}/`,
  (name, port) => `HTTP://${name}:${port}/hooks?url=https://example.com/`,
  (name, port) => `http://${name}:000${port}/`,
  (name, port) => `  http://${name}:${port}/\n`,
  (name, port) => `http:${name}:${port}/`,
  (name, port) => `http:\\\\${name}:${port}\\@example.com/`,
  (name, port) => `http:////${name}:${port}/`,
  (name, port) => `http://${name}:${port}/@example.com`,
  (name, port) => `http://${name}:${port}?@example.com/`,
  (name, port) => `http://${name}:${port}#@example.com/`,
  (name, port) => `http://example.com@${name}:${port}/`,
  (name, port) => `http://example.com:443@${name}:${port}/`,
  (name, port) => `http://example.com%2f@${name}:${port}/`,
  (name, port) => `http://:@${name}:${port}/`,
  (name) => `http://${name}/`,
  (name) => `https://${name}/`,
  (name) => `http://${name}:0/`,
  (name) => `http://${name}:65535/`,
  (name, port) => `https://${name}:${port}/`,
];

/** URLs of inside addresses, at a port where somebody listens. */
export const insideUrls = (port: number): fc.Arbitrary<string> =>
  fc.tuple(host, fc.constantFrom(...AROUND)).map(([name, around]) => around(name, `${port}`));
