import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

/** Something happens at one statement of all that pass, counted from 1 on: the server has it, or its answer is here, or neither. */
export interface Point {
  readonly nth: number;
  readonly when: 'before' | 'during' | 'after';
}

export interface WireOptions {
  readonly databaseUrl: string;
  readonly at: Point;
  /** What happens there, to the process or to the backend that the statement is for; by itself, the wire is cut. */
  readonly strike?: (backendPid: number) => unknown;
}

/** All that a process has of its database. Where it is cut, the server sees what it sees of a process that was killed. */
export interface Wire {
  readonly url: string;
  /** Whether it came to what was to happen. */
  isStruck(): boolean;
  /** Once what happens has come to its end; fails where that did. */
  stop(): Promise<void>;
}

/** Stands between whoever connects and the server. Nobody gets through any more once it is cut. */
export async function startWire({ databaseUrl, at, strike }: WireOptions): Promise<Wire> {
  const server = new URL(databaseUrl);
  const sockets = new Set<Socket>();
  let [passed, isCut] = [0, false];
  let struck: Promise<unknown> | undefined;
  const cut = () => {
    isCut = true;
    for (const socket of sockets) socket.destroy();
  };
  const watch: Watch = {
    next: () => {
      passed += 1;
      return passed === at.nth ? at.when : undefined;
    },
    strike: async (backendPid) => {
      struck = (async () => (strike ?? cut)(backendPid))();
      // It is heard in the end.
      await struck.catch(() => undefined);
    },
  };
  const listener = createServer((client) => {
    if (isCut) {
      client.destroy();
      return;
    }
    const backend = connect(Number(server.port), server.hostname);
    for (const socket of [client, backend]) {
      sockets.add(socket);
      socket.on('error', () => undefined).on('close', () => sockets.delete(socket));
    }
    client.on('close', () => backend.destroy());
    backend.on('close', () => client.destroy());
    carry(client, backend, watch);
  }).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const address = listener.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    url: Object.assign(new URL(databaseUrl), { host: `127.0.0.1:${port}` }).href,
    isStruck: () => struck !== undefined,
    stop: async () => {
      const closed = once(listener, 'close');
      listener.close();
      cut();
      await closed;
      await struck;
    },
  };
}

interface Watch {
  /** Counts a statement, and tells when beside it something is to happen. */
  next(): Point['when'] | undefined;
  strike(backendPid: number): Promise<void>;
}

/** Carries what one connection says, statement by statement. */
function carry(client: Socket, backend: Socket, watch: Watch): void {
  let backendPid = 0;
  let [isAnswerAwaited, unsent] = [false, Buffer.alloc(0)];
  // One after the other, also where striking takes a moment.
  let asked = Promise.resolve();
  let answered = Promise.resolve();
  const ask = async (type: string, message: Buffer) => {
    unsent = Buffer.concat([unsent, message]);
    const isStatement = type === SIMPLE_QUERY || type === SYNC;
    if (!isStatement && type !== WITHOUT_TYPE && type !== PASSWORD && type !== TERMINATE) return;
    const when = isStatement ? watch.next() : undefined;
    if (when === 'before') await watch.strike(backendPid);
    isAnswerAwaited = when === 'after';
    backend.write(unsent);
    unsent = Buffer.alloc(0);
    if (when === 'during') await watch.strike(backendPid);
  };
  const tell = async (type: string, message: Buffer) => {
    if (type === BACKEND_KEY) backendPid = message.readInt32BE(HEADER_BYTES);
    if (!isAnswerAwaited) {
      client.write(message);
      return;
    }
    if (type !== READY) return;
    await watch.strike(backendPid);
    // The answer never arrives.
    client.destroy();
  };
  onMessages(client, true, (type, message) => {
    asked = asked.then(() => ask(type, message));
  });
  onMessages(backend, false, (type, message) => {
    answered = answered.then(() => tell(type, message));
  });
}

/** https://www.postgresql.org/docs/current/protocol-message-formats.html */
const HEADER_BYTES = 5;
const WITHOUT_TYPE = '';
const [SIMPLE_QUERY, SYNC, PASSWORD, TERMINATE] = ['Q', 'S', 'p', 'X'];
const [BACKEND_KEY, READY] = ['K', 'Z'];

/** Whole messages, each with its type; a client's first has none. */
function onMessages(socket: Socket, isClient: boolean, heard: (type: string, message: Buffer) => void): void {
  let left: Buffer = Buffer.alloc(0);
  let typeBytes = isClient ? 0 : 1;
  socket.on('data', (data: Buffer) => {
    left = Buffer.concat([left, data]);
    while (left.length >= typeBytes + 4) {
      const length = typeBytes + left.readInt32BE(typeBytes);
      if (left.length < length) return;
      const message = left.subarray(0, length);
      left = left.subarray(length);
      heard(message.toString('latin1', 0, typeBytes), message);
      typeBytes = 1;
    }
  });
}
