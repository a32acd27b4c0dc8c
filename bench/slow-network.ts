import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';

/** A TCP proxy that keeps every chunk for so long on its way, in each direction. */
export async function delayNetwork(databaseUrl: string, delayMs: number): Promise<{ url: string; close(): void }> {
  const target = new URL(databaseUrl);
  const sockets = new Set<Socket>();
  const server = createServer((incoming) => {
    const outgoing = connect(Number(target.port), target.hostname);
    for (const socket of [incoming, outgoing]) {
      sockets.add(socket.setNoDelay(true).on('error', () => undefined));
    }
    void forward(incoming, outgoing, delayMs);
    void forward(outgoing, incoming, delayMs);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const url = new URL(databaseUrl);
  url.port = String(typeof address === 'object' && address !== null ? address.port : '');
  return {
    url: url.href,
    close: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

async function forward(from: Socket, to: Socket, delayMs: number): Promise<void> {
  from.on('data', async (chunk) => {
    await pause(delayMs);
    if (!to.destroyed) to.write(chunk);
  });
  from.on('close', () => to.destroy());
}
