import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { egressPolicy } from '../../src/outbox/egress.ts';
import { createEgressAgent, type EgressAgent } from '../../src/outbox/egress-agent.ts';
import { attempt } from '../support/attempt.ts';
import { eventually } from '../support/eventually.ts';
import { type RawServer, startRawServer } from '../support/raw-server.ts';

const TIMEOUT_MS = 400;
const OK = 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok';
const NO_CONTENT = 'HTTP/1.1 204 No Content\r\n\r\n';

/** A byte every so often, for as long as somebody listens. */
const drip = (socket: Socket, next: () => string) => {
  const timer = setInterval(() => socket.write(next()), 50);
  socket.on('close', () => clearInterval(timer));
};

/** As much as the connection takes, up to a gigabyte. */
const flood = (socket: Socket, chunk: Buffer) => {
  let left = 1024 ** 3;
  const pour = () => {
    while (left > 0 && !socket.destroyed) {
      left -= chunk.length;
      if (!socket.write(chunk)) return;
    }
  };
  socket.on('drain', pour);
  pour();
};

const failed = (errorClass: string, error: RegExp) =>
  expect.objectContaining({ status: 'failed', errorClass, error: expect.stringMatching(error) });
const delivered = (statusCode: number, response: string) => ({ status: 'delivered', statusCode, response });

let agent: EgressAgent;
let healthy: RawServer;
const servers: RawServer[] = [];
const serve = async (...args: Parameters<typeof startRawServer>) => {
  const server = await startRawServer(...args);
  servers.push(server);
  return server;
};
beforeEach(async () => {
  agent = createEgressAgent(egressPolicy(['127.0.0.0/8', '::1/128']));
  healthy = await serve((socket) => socket.write(NO_CONTENT));
});
afterEach(async () => {
  await agent.close();
  await Promise.all(servers.splice(0).map((server) => server.stop()));
});

const ENDPOINTS: [string, (socket: Socket, nth: number) => void, unknown][] = [
  ['accepts and never answers', () => undefined, failed('timeout', /within 400 ms/)],
  ['stops in its status line', (socket) => socket.write('HTTP/1.1 20'), failed('timeout', /within 400 ms/)],
  [
    'drips its headers',
    (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nx: ');
      drip(socket, () => 'x');
    },
    failed('timeout', /within 400 ms/),
  ],
  [
    'drips its body',
    (socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n.');
      drip(socket, () => '.');
    },
    { status: 'delivered', statusCode: 200, response: expect.stringMatching(/^\.{2,20}$/) },
  ],
  [
    'drips the body of a 500',
    (socket) => {
      socket.write('HTTP/1.1 500 No\r\ncontent-length: 1000\r\n\r\n.');
      drip(socket, () => '.');
    },
    failed('status', /^answered 500$/),
  ],
  [
    'closes amid its body',
    (socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf'),
    delivered(200, 'half'),
  ],
  [
    'breaks the connection amid its body',
    (socket) => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf', () => socket.resetAndDestroy()),
    { status: 'delivered', statusCode: 200, response: expect.stringMatching(/^(half)?$/) },
  ],
  ['closes before any byte', (socket) => socket.end(), failed('connection_lost', /other side closed/)],
  [
    'breaks the connection before any byte',
    (socket) => socket.resetAndDestroy(),
    failed('connection_lost', /ECONNRESET/),
  ],
  [
    'closes amid its status line',
    (socket) => socket.end('HTTP/1.1 20'),
    failed('connection_lost', /other side closed/),
  ],
  [
    'answers after the deadline',
    (socket) => void setTimeout(() => socket.write(OK), TIMEOUT_MS + 100),
    failed('timeout', /within 400 ms/),
  ],
  ['sends garbage', (socket) => socket.write('SSH-2.0-OpenSSH_9.2\r\n'), failed('response_invalid', /HTTP/)],
  ['sends zeros', (socket) => socket.write(Buffer.alloc(1000)), failed('response_invalid', /HTTP/)],
  [
    'sends 100 kB of one header',
    (socket) => socket.write(`HTTP/1.1 200 OK\r\nx: ${'x'.repeat(100_000)}\r\n\r\n`),
    failed('response_headers_too_large', /Headers Overflow/),
  ],
  [
    'sends 100 kB of many headers',
    (socket) => socket.write(`HTTP/1.1 200 OK\r\n${'x: yyyyy\r\n'.repeat(10_000)}\r\n`),
    failed('response_headers_too_large', /Headers Overflow/),
  ],
  [
    'answers 102 and 103, then 200',
    (socket) =>
      socket.write(`HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n${OK}`),
    delivered(200, 'ok'),
  ],
  [
    'answers 103 for ever',
    (socket) => drip(socket, () => 'HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(8)),
    failed('response_invalid', /informational/),
  ],
  // undici's own limit (lib/dispatcher/client-h1.js): it takes 100 from nobody, although RFC 9110 asks every client to.
  [
    'answers 100, unasked, then 200',
    (socket) => socket.write(`HTTP/1.1 100 Continue\r\n\r\n${OK}`),
    failed('response_invalid', /bad response/),
  ],
  [
    'switches protocols',
    (socket) => socket.write('HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n'),
    failed('response_invalid', /bad upgrade/),
  ],
  [
    'speaks HTTP/1.0, and ends with the connection',
    (socket) => socket.end('HTTP/1.0 200 OK\r\n\r\nold'),
    delivered(200, 'old'),
  ],
  [
    'compresses its body',
    (socket) => {
      const body = gzipSync('hello');
      socket.write(`HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: ${body.length}\r\n\r\n`);
      socket.write(body);
    },
    // As it came: what was never decompressed cannot be a bomb. The NULs are replaced, which PostgreSQL's text cannot hold.
    { status: 'delivered', statusCode: 200, response: expect.not.stringMatching(/hello|\0/) },
  ],
  [
    'answers 204 with a body',
    (socket) => socket.write(`HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok`),
    delivered(204, ''),
  ],
  [
    'answers 304 with a body',
    (socket) => socket.write('HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nok'),
    failed('redirect', /304/),
  ],
  ['answers twice', (socket) => socket.write(OK + OK), delivered(200, 'ok')],
  [
    'answers with a length that is none',
    (socket) => socket.write('HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n'),
    failed('response_invalid', /./),
  ],
];

describe('an endpoint that', () => {
  it.each(ENDPOINTS)('%s', async (_what, behave, outcome) => {
    const server = await serve(behave);
    const startedAt = performance.now();
    expect(await attempt(agent, server.url, { timeoutMs: TIMEOUT_MS })).toEqual(outcome);
    expect(performance.now() - startedAt).toBeLessThan(TIMEOUT_MS + 500);
    // Neither the others nor its own next attempt suffer.
    expect(await attempt(agent, healthy.url)).toEqual(delivered(204, ''));
    expect(await attempt(agent, server.url, { timeoutMs: TIMEOUT_MS })).toEqual(outcome);
    expect(await attempt(agent, healthy.url)).toEqual(delivered(204, ''));
    expect(server.requests).toHaveLength(2);
  });

  it.each([
    ['with its length', 'HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n', Buffer.alloc(65_536, 'x')],
    [
      'in chunks',
      'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n',
      Buffer.from(`ffff\r\n${'x'.repeat(0xffff)}\r\n`),
    ],
  ])('sends 1 GB %s is read up to the limit and cut off', async (_how, head, chunk) => {
    let poured: Socket | undefined;
    const server = await serve((socket) => {
      poured = socket;
      socket.write(head);
      flood(socket, chunk);
    });
    expect(await attempt(agent, server.url)).toEqual(delivered(200, 'x'.repeat(8_192)));
    await eventually('the connection is closed', () => poured?.destroyed === true);
    // What the kernel's buffers on both sides took in.
    expect(poured?.bytesWritten).toBeLessThan(16 * 1024 ** 2);
    expect(await attempt(agent, healthy.url)).toEqual(delivered(204, ''));
  });
});

/** undici gives a connection its next request in a later turn than the one in which its last was answered. */
const attemptWhenIdle = async (server: RawServer, timeoutMs?: number) => {
  await nextTurn();
  await nextTurn();
  return attempt(agent, server.url, timeoutMs === undefined ? {} : { timeoutMs });
};

describe('a connection', () => {
  it('is kept for the next request after a body that ends', async () => {
    const server = await serve((socket) => socket.write(OK));
    for (const _ of [1, 2, 3]) expect(await attemptWhenIdle(server)).toEqual(delivered(200, 'ok'));
    expect(server.connections()).toBe(1);
  });

  it.each([
    ['closes', (socket: Socket) => void socket.end()],
    ['breaks', (socket: Socket) => void socket.resetAndDestroy()],
  ])('that the server %s when it was idle costs no attempt: the request is sent on a new one', async (_how, leave) => {
    const server = await serve((socket, nth) => void (nth === 1 ? socket.write(OK) : leave(socket)));
    for (const _ of [1, 2]) expect(await attemptWhenIdle(server)).toEqual(delivered(200, 'ok'));
    // The first one's, the try on the idle connection, and that on a new one.
    expect([server.requests.length, server.connections()]).toEqual([3, 2]);
    expect(new Set(server.requests.map((request) => /webhook-id: (.*)\r/.exec(request)?.[1]))).toEqual(
      new Set(['msg_1']),
    );
  });

  it('that the server has closed before the next request is not used for it', async () => {
    const server = await serve((socket) => void socket.write(OK, () => socket.end()));
    for (const nth of [1, 2, 3]) {
      expect(await attemptWhenIdle(server)).toEqual(delivered(200, 'ok'));
      await eventually('it is closed on both sides', () => server.open.size === 0);
      expect([server.requests.length, server.connections()]).toEqual([nth, nth]);
    }
  });

  it('that is lost when it is new costs one request and the attempt', async () => {
    const server = await serve((socket) => void socket.end());
    expect(await attemptWhenIdle(server)).toEqual(failed('connection_lost', /closed/));
    expect(server.requests).toHaveLength(1);
  });

  it('that is lost on the second try as well costs two requests and the attempt', async () => {
    let isBroken = false;
    const server = await serve((socket) => void (isBroken ? socket.end() : socket.write(OK)));
    await attemptWhenIdle(server);
    isBroken = true;
    expect(await attemptWhenIdle(server)).toEqual(failed('connection_lost', /closed/));
    expect(server.requests).toHaveLength(3);
  });

  it('that is lost amid a status line is not tried again, though it served before: the answer had begun', async () => {
    const server = await serve((socket, nth) => void (nth === 1 ? socket.write(OK) : socket.end('HTTP/1.1 2')));
    await attemptWhenIdle(server);
    expect(await attemptWhenIdle(server)).toEqual(failed('connection_lost', /closed/));
    expect(server.requests).toHaveLength(2);
  });

  it('of its own, for the second try, ends with the same deadline', async () => {
    let isHanging = false;
    const server = await serve((socket, nth) => {
      if (nth === 1 && !isHanging) socket.write(OK);
      else if (nth > 1) socket.end();
      isHanging = true;
    });
    await attemptWhenIdle(server);
    expect(await attemptWhenIdle(server, TIMEOUT_MS)).toEqual(failed('timeout', /within 400 ms/));
    expect(server.requests).toHaveLength(3);
    await eventually('it is closed', () => server.open.size === 0);
  });
});

describe('a worker that stops', () => {
  it('breaks off what has no answer yet, and closes its connection', async () => {
    const server = await serve(() => undefined);
    const stop = new AbortController();
    const outcome = attempt(agent, server.url, { stop: stop.signal });
    await eventually('the request has come', () => server.requests.length === 1);
    stop.abort();
    expect(await outcome).toEqual(failed('worker_stopped', /stopped/));
    expect(await attempt(agent, server.url, { stop: stop.signal })).toEqual(failed('worker_stopped', /stopped/));
    expect(server.requests).toHaveLength(1);
  });

  it('takes the status line for the answer, whatever of the body is still to come', async () => {
    const server = await serve((socket) => void socket.write('HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf'));
    const stop = new AbortController();
    const outcome = attempt(agent, server.url, { stop: stop.signal });
    await eventually('the request has come', () => server.requests.length === 1);
    // The answer, on its way already, is read before what this request sets off.
    await attempt(agent, healthy.url);
    stop.abort();
    expect(await outcome).toEqual(delivered(200, 'half'));
  });
});

describe('a name', () => {
  it('with several addresses that all refuse the connection says so', async () => {
    const addresses = ['127.0.0.1', '::1'].map((address) => ({ address, family: address.includes(':') ? 6 : 4 }));
    const two = createEgressAgent(egressPolicy(['127.0.0.0/8', '::1/128']), {
      resolve: (_name, _options, callback) => callback(null, addresses),
    });
    expect(await attempt(two, 'http://two.test:1/')).toEqual(failed('connection_failed', /ECONNREFUSED/));
    await two.close();
  });

  it('that is not resolved within the deadline is a timeout, and nothing is sent when it is resolved after all', async () => {
    let resolved: (() => void) | undefined;
    const slow = createEgressAgent(egressPolicy(['127.0.0.0/8']), {
      resolve: (_name, _options, callback) => {
        resolved = () => callback(null, [{ address: '127.0.0.1', family: 4 }]);
      },
    });
    expect(await attempt(slow, `http://slow.test:${healthy.port}/`, { timeoutMs: TIMEOUT_MS })).toEqual(
      failed('timeout', /within 400 ms/),
    );
    resolved?.();
    await eventually('it was connected, for nothing', () => healthy.connections() > 0);
    await eventually('the connection is closed', () => healthy.open.size === 0 || healthy.requests.length > 0);
    expect(healthy.requests).toHaveLength(0);
    await slow.close();
  });
});

describe('origins', () => {
  it('are kept up to a bound: whichever was used least recently is closed, but none with a request under way', async () => {
    const few = createEgressAgent(egressPolicy(['127.0.0.0/8']), { maxOrigins: 3 });
    const pending: Socket[] = [];
    const hanging = await serve((socket) => void pending.push(socket));
    const others = await Promise.all(Array.from({ length: 40 }, () => serve((socket) => void socket.write(OK))));
    const underWay = attempt(few, hanging.url);
    await eventually('the first request is under way', () => pending.length === 1);
    for (const { url } of others) expect(await attempt(few, url)).toEqual(delivered(200, 'ok'));
    const isOpen = (server: RawServer) => server.open.size === 1;
    await eventually('only the last two are open', () => others.filter(isOpen).length === 2);
    expect(others.map(isOpen)).toEqual(others.map((_, index) => index >= others.length - 2));
    pending[0]?.write(OK);
    expect(await underWay).toEqual(delivered(200, 'ok'));
    await few.close();
  });
});
