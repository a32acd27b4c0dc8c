import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { egressPolicy } from '../../src/outbox/egress.ts';
import { createEgressAgent, type EgressAgent } from '../../src/outbox/egress-agent.ts';
import { attempt } from '../support/attempt.ts';
import { eventually } from '../support/eventually.ts';
import { type RawServer, startRawServer } from '../support/raw-server.ts';
import { delivered, ENDPOINTS, failed, NO_CONTENT, OK, TIMEOUT_MS } from './bad-endpoints.ts';

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

describe('an endpoint that', () => {
  it.concurrent.each(ENDPOINTS)('%s', async (_what, behave, outcome, timeoutMs) => {
    const own = createEgressAgent(egressPolicy(['127.0.0.0/8']));
    const [server, beside] = [await startRawServer(behave), await startRawServer((socket) => socket.write(NO_CONTENT))];
    for (const nth of [1, 2]) {
      const startedAt = performance.now();
      expect(await attempt(own, server.url, { timeoutMs })).toMatchObject(outcome);
      expect(performance.now() - startedAt).toBeLessThan(timeoutMs + 5_000);
      expect(server.requests).toHaveLength(nth);
      // Neither the others nor its own next attempt suffer.
      expect(await attempt(own, beside.url, { timeoutMs: 20_000 })).toEqual(delivered(204, ''));
    }
    await Promise.all([own.close(), server.stop(), beside.stop()]);
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
    expect(await attemptWhenIdle(server)).toMatchObject(failed('connection_lost', /closed/));
    expect(server.requests).toHaveLength(1);
  });

  it('that is lost on the second try as well costs two requests and the attempt', async () => {
    let isBroken = false;
    const server = await serve((socket) => void (isBroken ? socket.end() : socket.write(OK)));
    await attemptWhenIdle(server);
    isBroken = true;
    expect(await attemptWhenIdle(server)).toMatchObject(failed('connection_lost', /closed/));
    expect(server.requests).toHaveLength(3);
  });

  it('that is lost amid a status line is not tried again, though it served before: the answer had begun', async () => {
    const server = await serve((socket, nth) => void (nth === 1 ? socket.write(OK) : socket.end('HTTP/1.1 2')));
    await attemptWhenIdle(server);
    expect(await attemptWhenIdle(server)).toMatchObject(failed('connection_lost', /closed/));
    expect(server.requests).toHaveLength(2);
  });

  it('that answers nonsense is not tried again either', async () => {
    const server = await serve((socket, nth) => void socket.write(nth === 1 ? OK : 'SSH-2.0-OpenSSH_9.2\r\n'));
    await attemptWhenIdle(server);
    expect(await attemptWhenIdle(server)).toMatchObject(failed('response_invalid', /HTTP/));
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
    expect(await attemptWhenIdle(server, TIMEOUT_MS)).toMatchObject(failed('timeout', /within 1000 ms/));
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
    expect(await outcome).toMatchObject(failed('worker_stopped', /stopped/));
    expect(await attempt(agent, server.url, { stop: stop.signal })).toMatchObject(failed('worker_stopped', /stopped/));
    expect(server.requests).toHaveLength(1);
  });

  it('sends nothing once it has closed its connections, and does not blame the endpoint', async () => {
    await agent.close();
    expect(await attempt(agent, healthy.url)).toMatchObject(failed('worker_stopped', /stopped/));
    expect(healthy.connections()).toBe(0);
  });

  it('breaks off what is under way when it closes its connections', async () => {
    const server = await serve(() => undefined);
    const outcome = attempt(agent, server.url);
    await eventually('the request has come', () => server.requests.length === 1);
    await agent.close();
    expect(await outcome).toMatchObject(failed('worker_stopped', /stopped/));
    await eventually('its connection is closed', () => server.open.size === 0);
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
    expect(await attempt(two, 'http://two.test:1/')).toMatchObject(failed('connection_failed', /ECONNREFUSED/));
    await two.close();
  });

  it('that takes long to resolve is resolved once for all who wait, and anew for who comes later', async () => {
    const asked: (() => void)[] = [];
    const slow = createEgressAgent(egressPolicy(['127.0.0.0/8']), {
      resolve: (_name, _options, callback) =>
        void asked.push(() => callback(null, [{ address: '127.0.0.1', family: 4 }])),
    });
    const server = await serve((socket) => void socket.end('HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n'));
    const send = (name: string) => attempt(slow, `http://${name}:${server.port}/`);
    const first = [send('slow.test'), send('slow.test'), send('slow.test'), send('other.test')];
    await eventually('both names are asked for', () => asked.length === 2);
    for (const answer of asked.splice(0)) answer();
    expect(await Promise.all(first)).toEqual(first.map(() => delivered(204, '')));
    const later = send('slow.test');
    await eventually('it is asked for again', () => asked.length === 1);
    asked[0]?.();
    expect([await later, server.requests.length]).toEqual([delivered(204, ''), 5]);
    await slow.close();
  });

  it('that is not resolved within the deadline is a timeout, and nothing is sent when it is resolved after all', async () => {
    let resolved: (() => void) | undefined;
    const slow = createEgressAgent(egressPolicy(['127.0.0.0/8']), {
      resolve: (_name, _options, callback) => {
        resolved = () => callback(null, [{ address: '127.0.0.1', family: 4 }]);
      },
    });
    expect(await attempt(slow, `http://slow.test:${healthy.port}/`, { timeoutMs: TIMEOUT_MS })).toMatchObject(
      failed('timeout', /within 1000 ms/),
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

  it('have a connection for every request: those that hang take none from another endpoint there', async () => {
    const server = await serve((socket) => {
      if (server.requests.at(-1)?.startsWith('POST /healthy') === true) socket.write(NO_CONTENT);
    });
    const stop = new AbortController();
    const hanging = Array.from({ length: 300 }, () =>
      attempt(agent, `${server.url}/hangs`, { stop: stop.signal, timeoutMs: 60_000 }),
    );
    await eventually('they have come', () => server.requests.length === hanging.length);
    expect(await attempt(agent, `${server.url}/healthy`)).toEqual(delivered(204, ''));
    stop.abort();
    await Promise.all(hanging);
  });
});
