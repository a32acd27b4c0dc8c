import type { Socket } from 'node:net';
import { gzipSync } from 'node:zlib';
import { expect } from 'vitest';

/** The patience with those that one has to wait for in vain; the others have all the time that a busy machine takes. */
export const TIMEOUT_MS = 1_000;
const PATIENT_MS = 20_000;
/** Their status line comes at once, also on a busy machine, and the rest never. */
const DRIPPING_MS = 4_000;
export const OK = 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok';
export const NO_CONTENT = 'HTTP/1.1 204 No Content\r\n\r\n';

/** A byte every so often, for as long as somebody listens. */
const drip = (socket: Socket, next: () => string) => {
  const timer = setInterval(() => socket.write(next()), 50);
  socket.on('close', () => clearInterval(timer));
};

interface Outcome {
  readonly status: 'delivered' | 'failed';
  readonly statusCode?: number;
  readonly errorClass?: string;
  readonly error?: unknown;
  readonly response?: unknown;
}

export const failed = (errorClass: string, error: RegExp): Outcome => ({
  status: 'failed',
  errorClass,
  error: expect.stringMatching(error),
});
export const delivered = (statusCode: number, response: string): Outcome => ({
  status: 'delivered',
  statusCode,
  response,
});

type Endpoint = [what: string, behave: (socket: Socket, nth: number) => void, outcome: Outcome];

const WAITED_FOR: Endpoint[] = [
  ['accepts and never answers', () => undefined, failed('timeout', /within 1000 ms/)],
  ['stops in its status line', (socket) => socket.write('HTTP/1.1 20'), failed('timeout', /within 1000 ms/)],
  [
    'drips its headers',
    (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nx: ');
      drip(socket, () => 'x');
    },
    failed('timeout', /within 1000 ms/),
  ],
  [
    'answers after the deadline',
    (socket) => void setTimeout(() => socket.write(OK), TIMEOUT_MS + 100),
    failed('timeout', /within 1000 ms/),
  ],
];

const DRIPPING: Endpoint[] = [
  [
    'drips its body',
    (socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n.');
      drip(socket, () => '.');
    },
    { status: 'delivered', statusCode: 200, response: expect.stringMatching(/^\.{1,90}$/) },
  ],
  [
    'drips the body of a 500',
    (socket) => {
      socket.write('HTTP/1.1 500 No\r\ncontent-length: 1000\r\n\r\n.');
      drip(socket, () => '.');
    },
    failed('status', /^answered 500$/),
  ],
];

const ANSWERING: Endpoint[] = [
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
    'answers 103 a thousand times',
    (socket) => socket.write('HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(1_000)),
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

/** What an endpoint may do to who asks it, what comes of that, and its timeout. */
export const ENDPOINTS = [
  ...WAITED_FOR.map((endpoint) => [...endpoint, TIMEOUT_MS] as const),
  ...DRIPPING.map((endpoint) => [...endpoint, DRIPPING_MS] as const),
  ...ANSWERING.map((endpoint) => [...endpoint, PATIENT_MS] as const),
];
