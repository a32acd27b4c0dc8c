import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { egressPolicy, literalAddress } from '../../src/outbox/egress.ts';
import { createEgressAgent } from '../../src/outbox/egress-agent.ts';
import { attempt } from '../support/attempt.ts';
import { startReceiver, type TestReceiver } from '../support/receiver.ts';

describe('which addresses webhooks may reach', () => {
  const nobodyElse = egressPolicy([]);

  it.each([
    ['8.8.8.8', 'public'],
    ['93.184.216.34', 'public'],
    ['172.15.255.255', 'just below the private range'],
    ['172.32.0.0', 'just above the private range'],
    ['100.63.255.255', 'just below carrier-grade NAT'],
    ['2606:2800:220:1:248:1893:25c8:1946', 'public IPv6'],
    ['::ffff:8.8.8.8', 'a public address, mapped'],
  ])('permits %s (%s)', (address) => expect(nobodyElse.permits(address)).toBe(true));

  it.each([
    ['127.0.0.1', 'loopback'],
    ['127.255.255.254', 'loopback'],
    ['0.0.0.0', 'this host'],
    ['0.1.2.3', 'this network'],
    ['10.1.2.3', 'private'],
    ['172.16.0.1', 'private'],
    ['172.31.255.255', 'private'],
    ['192.168.0.1', 'private'],
    ['100.64.0.1', 'carrier-grade NAT'],
    ['100.100.100.200', 'metadata of Alibaba'],
    ['169.254.169.254', 'metadata of most clouds'],
    ['169.254.0.1', 'link-local'],
    ['168.63.129.16', 'metadata of Azure, in a public range'],
    ['192.0.0.1', 'protocol assignments'],
    ['192.0.2.1', 'documentation'],
    ['192.88.99.1', '6to4 relay'],
    ['198.18.0.1', 'benchmarking'],
    ['198.51.100.1', 'documentation'],
    ['203.0.113.1', 'documentation'],
    ['224.0.0.1', 'multicast'],
    ['240.0.0.1', 'reserved'],
    ['255.255.255.255', 'broadcast'],
    ['::', 'unspecified'],
    ['::1', 'loopback'],
    ['::7f00:1', 'IPv4-compatible loopback'],
    ['::ffff:127.0.0.1', 'mapped loopback'],
    ['::ffff:a9fe:a9fe', 'mapped metadata'],
    ['::ffff:0:127.0.0.1', 'translated loopback'],
    ['64:ff9b::7f00:1', 'NAT64 of loopback'],
    ['64:ff9b::a9fe:a9fe', 'NAT64 of metadata'],
    ['64:ff9b:1::7f00:1', 'local NAT64'],
    ['2002:7f00:1::', '6to4 of loopback'],
    ['2001:0:7f00:1::', 'Teredo'],
    ['2001:db8::1', 'documentation'],
    ['fc00::1', 'unique local'],
    ['fd00:ec2::254', 'metadata of AWS'],
    ['fe80::1', 'link-local'],
    ['fec0::1', 'site-local'],
    ['ff02::1', 'multicast'],
    ['4000::1', 'unassigned'],
    ['not an address', 'no address'],
    ['', 'nothing'],
  ])('refuses %s (%s)', (address) => expect(nobodyElse.permits(address)).toBe(false));

  it('permits what is allowed by name beside the public addresses, in every spelling, and nothing near it', () => {
    const policy = egressPolicy(['10.0.0.0/8', '127.0.0.1/32', 'fd00::/8']);
    for (const address of ['10.9.8.7', '127.0.0.1', '::ffff:127.0.0.1', 'fd12::1', '8.8.8.8']) {
      expect([address, policy.permits(address)]).toEqual([address, true]);
    }
    for (const address of ['11.0.0.1', '127.0.0.2', 'fc00::1', '::1']) {
      expect([address, policy.permits(address)]).toEqual([address, address === '11.0.0.1']);
    }
  });
});

describe('what is denied', () => {
  const policy = egressPolicy(
    ['10.0.0.0/8', 'fd00::/8'],
    ['10.1.0.0/16', '8.8.8.0/24', 'fd12::/16', '::ffff:9.9.0.0/112', '2606::/16'],
  );

  it.each([
    ['10.1.2.3', 'though it is within what is allowed'],
    ['8.8.8.8', 'though it is public'],
    ['::ffff:8.8.8.8', 'mapped'],
    ['::ffff:a01:203', 'mapped, in hexadecimal'],
    ['fd12::1', 'IPv6 within what is allowed'],
    ['2606:2800:220:1:248:1893:25c8:1946', 'public IPv6'],
    ['9.9.9.9', 'named as a network of mapped addresses'],
  ])('is not reached: %s (%s)', (address) => {
    expect(policy.refusal(address)).toBe('is in OUTBOX_EGRESS_DENY');
    expect(policy.permits(address)).toBe(false);
  });

  it('takes nothing else away', () => {
    for (const address of ['10.2.0.1', '8.8.4.4', 'fd13::1', '9.10.0.1', '2607::1']) {
      expect([address, policy.refusal(address)]).toEqual([address, undefined]);
    }
    expect(policy.refusal('192.168.0.1')).toBe('is not a public address and not in OUTBOX_EGRESS_ALLOW');
  });

  it('may be everything, and then nothing is reached', () => {
    const nothing = egressPolicy(['0.0.0.0/0', '::/0'], ['0.0.0.0/0', '::/0']);
    for (const address of ['8.8.8.8', '127.0.0.1', '::1', '2606::1', '::ffff:8.8.8.8', '64:ff9b::1']) {
      expect([address, nothing.permits(address)]).toEqual([address, false]);
    }
  });
});

/** Every way that RFC 3986's readers are known to spell one IPv4 address: 1 to 4 parts, each decimal, octal or hex. */
const spelled = (bytes: readonly [number, number, number, number]) =>
  fc
    .record({
      parts: fc.integer({ min: 1, max: 4 }),
      bases: fc.tuple(...Array.from({ length: 4 }, () => fc.constantFrom(8, 10, 16))),
      padding: fc.integer({ min: 0, max: 6 }),
      dot: fc.constantFrom('', '.'),
    })
    .map(({ parts, bases, padding, dot }) => {
      const head = bytes.slice(0, parts - 1);
      const tail = bytes.slice(parts - 1).reduce((sum, byte) => sum * 256 + byte, 0);
      const written = [...head, tail].map((value, index) => {
        const base = bases[index] ?? 10;
        const digits = value.toString(base);
        if (base === 10) return digits;
        return `${base === 16 ? '0x' : '0'}${'0'.repeat(padding)}${digits}`;
      });
      return `${written.join('.')}${dot}`;
    });

const carried = (bytes: readonly [number, number, number, number]) => {
  const [a, b, c, d] = bytes;
  const high = ((a << 8) | b).toString(16);
  const low = ((c << 8) | d).toString(16);
  return fc.constantFrom(
    `[::ffff:${bytes.join('.')}]`,
    `[::ffff:${high}:${low}]`,
    `[0:0:0:0:0:ffff:${high}:${low}]`,
    `[::FFFF:${bytes.join('.')}]`,
    `[::${high}:${low}]`,
    `[::${bytes.join('.')}]`,
    `[64:ff9b::${high}:${low}]`,
    `[64:ff9b::${bytes.join('.')}]`,
    `[2002:${high}:${low}::1]`,
    `[::ffff:0:${high}:${low}]`,
  );
};

const insideHost = fc
  .constantFrom<[number, number, number, number]>(
    [127, 0, 0, 1],
    [127, 1, 2, 3],
    [0, 0, 0, 0],
    [10, 0, 0, 1],
    [192, 168, 1, 1],
    [169, 254, 169, 254],
    [100, 64, 0, 1],
  )
  .chain((bytes) => fc.oneof(spelled(bytes), carried(bytes)));

describe('a receiver on loopback', () => {
  let receiver: TestReceiver;
  beforeAll(async () => {
    receiver = await startReceiver();
  });
  afterAll(() => receiver.stop());

  const post = async (host: string, allow: readonly string[] = []) => {
    const agent = createEgressAgent(egressPolicy(allow));
    try {
      const outcome = await attempt(agent, `http://${host}:${new URL(receiver.url).port}/`);
      return outcome.status === 'failed' ? outcome.errorClass : outcome.statusCode;
    } finally {
      await agent.close();
    }
  };

  it('is not even connected to by any of hundreds of spellings of an inside address', async () => {
    await fc.assert(
      fc.asyncProperty(insideHost, async (host) => {
        expect([host, literalAddress(new URL(`http://${host}/`))]).not.toContain(undefined);
        expect([host, await post(host)]).toEqual([host, 'egress_refused']);
      }),
      { numRuns: 500 },
    );
    expect(receiver.connections()).toBe(0);
  });

  it.each([
    ['2130706433', 'one decimal number'],
    ['0x7f.1', 'hexadecimal, two parts'],
    ['017700000001', 'octal'],
    ['127.1', 'a part left out'],
    ['%31%32%37.0.0.1', 'percent-encoded'],
    ['１２７.０.０.１', 'full-width digits'],
    ['127。0。0。1', 'ideographic full stops'],
    ['①②⑦.0.0.1', 'circled digits'],
    ['[::1]', 'IPv6 loopback'],
    ['[::]', 'IPv6 unspecified'],
    ['localhost', 'a name that resolves to loopback'],
    ['LOCALHOST', 'the same, shouted'],
  ])('is not connected to by %s (%s)', async (host) => {
    expect(await post(host)).toBe('egress_refused');
    expect(receiver.connections()).toBe(0);
  });

  it('is reached when its network is allowed, by address and by name', async () => {
    expect(await post('127.0.0.1', ['127.0.0.0/8'])).toBe(204);
    expect(await post('localhost', ['127.0.0.0/8', '::1/128'])).toBe(204);
  });
});
