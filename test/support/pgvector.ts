import { readdirSync, readFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { PGlite } from '@electric-sql/pglite';
import { vector } from '@electric-sql/pglite-pgvector';

/** PostgreSQL 18 with pgvector in this process, for everybody who connects: one session, so that one transaction is open at a time. */
export interface PgvectorServer {
  /** As its superuser, to whom policies do not apply. */
  readonly url: string;
  stop(): Promise<void>;
}

/** Every migration is applied; the extension could be created, and is not. */
export async function startPgvector(): Promise<PgvectorServer> {
  const db = await PGlite.create({ extensions: { vector } });
  const migrations = readdirSync('migrations')
    .filter((name) => name.endsWith('.sql'))
    .sort();
  for (const name of migrations) await db.exec(readFileSync(`migrations/${name}`, 'utf8'));
  await db.exec(
    `create schema liventix; create table liventix.migrations (id serial, name text, run_on timestamp default now())`,
  );
  for (const name of migrations) {
    await db.query('insert into liventix.migrations (name) values ($1)', [name.slice(0, -'.sql'.length)]);
  }
  const sockets = new Set<Socket>();
  const turns = { last: Promise.resolve() };
  const server = createServer((socket) => {
    sockets.add(socket.on('close', () => sockets.delete(socket)).on('error', () => undefined));
    serve(socket, db, turns);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `postgresql://postgres@127.0.0.1:${port}/postgres?sslmode=disable`,
    stop: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
      await db.close();
    },
  };
}

const SSL_REQUEST = 80_877_103;
const CANCEL_REQUEST = 80_877_102;
const [QUERY, SYNC, TERMINATE] = ['Q', 'S', 'X'].map((letter) => letter.charCodeAt(0));

/** Messages go to the one session by whole requests, in turn: those of two connections would otherwise mix. */
function serve(socket: Socket, db: PGlite, turns: { last: Promise<void> }): void {
  let waiting = Buffer.alloc(0);
  let request: Buffer[] = [];
  let hasBegun = false;
  const inTurn = (message: Uint8Array) => {
    turns.last = turns.last.then(async () => void socket.write(await db.execProtocolRaw(message)));
  };
  socket.on('data', (chunk) => {
    waiting = Buffer.concat([waiting, chunk]);
    for (;;) {
      const header = hasBegun ? 1 : 0;
      if (waiting.length < header + 4 || waiting.length < header + waiting.readUInt32BE(header)) return;
      const message = waiting.subarray(0, header + waiting.readUInt32BE(header));
      waiting = waiting.subarray(message.length);
      if (!hasBegun) {
        const code = message.readUInt32BE(4);
        if (code === CANCEL_REQUEST) return void socket.end();
        if (code === SSL_REQUEST) socket.write('N');
        else {
          hasBegun = true;
          socket.write(GREETING);
        }
      } else if (message[0] === TERMINATE) {
        return void socket.end();
      } else {
        request.push(message);
        if (message[0] !== QUERY && message[0] !== SYNC) continue;
        inTurn(Buffer.concat(request));
        request = [];
      }
    }
  });
}

const said = (letter: string, body: Buffer): Buffer => {
  const header = Buffer.alloc(5, letter);
  header.writeUInt32BE(body.length + 4, 1);
  return Buffer.concat([header, body]);
};

/** Authenticated, by whom it does not matter, and ready. */
const GREETING = Buffer.concat([
  said('R', Buffer.alloc(4)),
  said('S', Buffer.from('client_encoding\0UTF8\0')),
  said('K', Buffer.alloc(8)),
  said('Z', Buffer.from('I')),
]);
