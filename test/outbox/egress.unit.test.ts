import type { Socket } from 'node:net';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { egressPolicy, literalAddress } from '../../src/outbox/egress.ts';
import { createEgressAgent, type EgressAgent } from '../../src/outbox/egress-agent.ts';
import { acceptedUrl } from '../../src/outbox/endpoint-url.ts';
import { attempt } from '../support/attempt.ts';
import { startDns, type TestDns } from '../support/dns.ts';
import { type RawServer, startRawServer } from '../support/raw-server.ts';
import { insideUrls } from './spellings.ts';

const SPELLINGS = 1_000;

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

/** Whether `addEndpoint` would take it. */
const isAccepted = (url: string) => {
  try {
    return acceptedUrl(url, { egressAllow: [] }) !== '';
  } catch (error) {
    expect(error).toMatchObject({ code: expect.stringMatching(/^OUTBOX_(ENDPOINT_URL_INVALID|EGRESS_REFUSED)$/) });
    return false;
  }
};

describe('receivers on loopback', () => {
  let agent: EgressAgent;
  let [receiver, beside]: (RawServer | undefined)[] = [];
  const port = () => receiver?.port ?? 0;
  const connections = () => (receiver?.connections() ?? 0) + (beside?.connections() ?? 0);
  beforeAll(async () => {
    receiver = await startRawServer((socket) => socket.write('HTTP/1.1 204 No Content\r\n\r\n'));
    beside = await startRawServer((socket) => socket.write('HTTP/1.1 204 No Content\r\n\r\n'), '::1', receiver.port);
  });
  beforeEach(() => {
    agent = createEgressAgent(egressPolicy([]));
  });
  afterEach(() => agent.close());
  afterAll(() => Promise.all([receiver?.stop(), beside?.stop()]));

  it('are not even connected to by any of a thousand spellings of an inside address', async () => {
    let attempted = 0;
    await fc.assert(
      fc.asyncProperty(insideUrls(port()), async (url) => {
        expect([url, isAccepted(url)]).toEqual([url, false]);
        // It may have come into the table all the same, by SQL.
        if (!URL.canParse(url)) return;
        attempted += 1;
        expect(literalAddress(new URL(url))).toBeDefined();
        expect([url, await attempt(agent, url)]).toEqual([
          url,
          expect.objectContaining({ errorClass: 'egress_refused' }),
        ]);
      }),
      { numRuns: SPELLINGS },
    );
    expect(attempted).toBeGreaterThan(SPELLINGS / 2);
    expect(connections()).toBe(0);
  });

  it.each([
    ['127.0.0.1', 'as it is'],
    ['[::ffff:127.0.0.1]', 'mapped'],
    ['2130706433', 'one decimal number'],
    ['0x7f.1', 'hexadecimal, two parts'],
    ['017700000001', 'octal'],
    ['127.1', 'a part left out'],
    ['0', 'zero, which is this host'],
    ['%31%32%37.0.0.1', 'percent-encoded'],
    ['１２７.０.０.１', 'full-width digits'],
    ['127。0。0。1', 'ideographic full stops'],
    ['①②⑦.0.0.1', 'circled digits'],
    ['[::1]', 'IPv6 loopback'],
    ['[::]', 'IPv6 unspecified'],
    ['[64:ff9b::7f00:1]', 'NAT64'],
    ['[2002:7f00:1::]', '6to4'],
    ['100.64.0.1', 'carrier-grade NAT'],
    ['169.254.169.254', 'link-local: the metadata of a cloud'],
    ['localhost', 'a name that resolves to loopback'],
    ['LOCALHOST', 'the same, shouted'],
  ])('are not connected to by %s (%s)', async (host) => {
    expect(await attempt(agent, `http://${host}:${port()}/`)).toMatchObject({ errorClass: 'egress_refused' });
    expect(connections()).toBe(0);
  });

  it.each(['ftp', 'file', 'ws', 'gopher', 'data'])(
    'are not connected to by %s:, should it be in the table',
    async (scheme) => {
      expect(await attempt(agent, `${scheme}://127.0.0.1/`)).toMatchObject({
        errorClass: 'endpoint_unusable',
      });
      expect(connections()).toBe(0);
    },
  );

  it('are reached when their network is allowed, by address and by name', async () => {
    const allowing = createEgressAgent(egressPolicy(['127.0.0.0/8', '::1/128']));
    for (const host of ['127.0.0.1', '0x7f.1', '[::1]', '[::ffff:7f00:1]', 'localhost']) {
      expect(await attempt(allowing, `http://${host}:${port()}/`)).toMatchObject({ status: 'delivered' });
    }
    expect(connections()).toBe(5);
    await allowing.close();
  });
});

describe('a name', () => {
  // Two addresses of loopback: one stands for a public address, and the other is what a trickster is after.
  const [PUBLIC, INSIDE] = ['127.0.0.2', '127.0.0.1'];
  let outside: RawServer;
  let inside: RawServer;
  let dns: TestDns | undefined;
  let agent: EgressAgent;
  const resolving = async (answer: (nth: number) => readonly string[]) => {
    let nth = 0;
    dns = await startDns(() => {
      nth += 1;
      return answer(nth);
    });
    agent = createEgressAgent(egressPolicy([`${PUBLIC}/32`]), { resolve: dns.resolve });
  };
  const attemptByName = () => attempt(agent, `http://hooks.test:${outside.port}/`);
  // Each request on a connection of its own, so that each has the name resolved.
  const noContent = (socket: Socket) => socket.end('HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n');
  beforeEach(async () => {
    outside = await startRawServer(noContent, PUBLIC);
    inside = await startRawServer(noContent, INSIDE, outside.port);
  });
  afterEach(async () => {
    await Promise.all([agent.close(), dns?.stop(), outside.stop(), inside.stop()]);
  });

  it('is connected to where it was judged to be: it is resolved once, whatever it would have resolved to next', async () => {
    await resolving((nth) => [nth === 1 ? PUBLIC : INSIDE]);
    expect(await attemptByName()).toMatchObject({ status: 'delivered' });
    expect([dns?.asked, outside.requests.length]).toEqual([['hooks.test'], 1]);
    expect(await attemptByName()).toMatchObject({ errorClass: 'egress_refused', address: INSIDE });
    expect(inside.connections()).toBe(0);
  });

  it.each([
    ['the public address first', [PUBLIC, INSIDE]],
    ['the inside address first', [INSIDE, PUBLIC]],
  ])('that is at a public and at an inside address is refused as a whole, %s', async (_order, addresses) => {
    await resolving(() => addresses);
    expect(await attemptByName()).toMatchObject({ errorClass: 'egress_refused', address: INSIDE });
    expect([outside.connections(), inside.connections()]).toEqual([0, 0]);
  });

  it('that redirects to an inside address is not followed there', async () => {
    await resolving(() => [PUBLIC]);
    await outside.stop();
    outside = await startRawServer(
      (socket) =>
        socket.write(`HTTP/1.1 307 Go\r\nlocation: http://${INSIDE}:${inside.port}/\r\ncontent-length: 0\r\n\r\n`),
      PUBLIC,
      outside.port,
    );
    expect(await attemptByName()).toMatchObject({ errorClass: 'redirect', statusCode: 307 });
    expect(inside.connections()).toBe(0);
  });
});
