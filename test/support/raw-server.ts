import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';

export interface RawServer {
  readonly url: string;
  readonly port: number;
  /** Whole requests, as they came. */
  readonly requests: readonly string[];
  /** How often anybody connected. */
  connections(): number;
  /** The connections that are open. */
  readonly open: ReadonlySet<Socket>;
  stop(): Promise<void>;
}

/** A request is whole; `nth` counts those of this connection from 1. */
type Behave = (socket: Socket, nth: number) => void;

/** A server on loopback that speaks what it is told to, which need not be HTTP. */
export async function startRawServer(behave: Behave, host = '127.0.0.1', port = 0): Promise<RawServer> {
  const requests: string[] = [];
  const open = new Set<Socket>();
  let connections = 0;
  const server = createServer((socket) => {
    connections += 1;
    open.add(socket);
    let text = '';
    let nth = 0;
    socket.on('error', () => undefined);
    socket.on('close', () => open.delete(socket));
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      const headEnd = text.indexOf('\r\n\r\n');
      const bodyLength = Number(/content-length: (\d+)/i.exec(text)?.[1] ?? 0);
      if (headEnd < 0 || text.length < headEnd + 4 + bodyLength) return;
      requests.push(text);
      text = '';
      nth += 1;
      behave(socket, nth);
    });
  });
  server.listen(port, host);
  await once(server, 'listening');
  const address = server.address();
  const listening = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${listening}`,
    port: listening,
    requests,
    connections: () => connections,
    open,
    stop: async () => {
      const closed = once(server, 'close');
      server.close();
      for (const socket of open) socket.destroy();
      await closed;
    },
  };
}
