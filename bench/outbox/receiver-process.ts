import { createServer, type IncomingMessage } from 'node:http';
import { nowMs } from './clock.ts';
import type { ReceiverCommand, ReceiverEvent, ReceiverReport } from './receiver.ts';

/** How often it tells how many have arrived: seldom enough to cost nothing. */
const PROGRESS_MS = 25;

// In a process of its own, so that its work is nobody's throughput. Told what to expect, and asked what came, by IPC.
let expected = { messages: 0, endpoints: 0, hangMs: 0 };
let arrivals = new Float64Array();
let [requests, told, duplicates, firstAtMs, lastAtMs] = [0, 0, 0, 0, 0];

const server = createServer((request, response) => {
  const atMs = nowMs();
  const endpoint = endpointOf(request);
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    count({ n: numberOf(Buffer.concat(chunks)), endpoint, atMs });
    const hangMs = endpoint === 0 ? expected.hangMs : 0;
    if (hangMs === 0) response.writeHead(200).end();
    else setTimeout(() => response.writeHead(200).end(), hangMs).unref();
  });
});

function count({ n, endpoint, atMs }: { n: number; endpoint: number; atMs: number }): void {
  const at = n * expected.endpoints + endpoint;
  if (n >= expected.messages || endpoint >= expected.endpoints) return;
  if (arrivals[at] !== 0) {
    duplicates += 1;
    return;
  }
  arrivals[at] = atMs;
  lastAtMs = atMs;
  requests += 1;
  if (requests === 1) {
    firstAtMs = atMs;
    tellProgress();
  }
}

/** `/3` is the fourth endpoint. */
function endpointOf(request: IncomingMessage): number {
  return Number((request.url ?? '/0').slice(1)) || 0;
}

function numberOf(body: Buffer): number {
  return (JSON.parse(body.toString('utf8')) as { data: { n: number } }).data.n;
}

function tellProgress(): void {
  if (requests === told) return;
  told = requests;
  send({ event: 'progress', requests });
}

function send(event: ReceiverEvent): void {
  process.send?.(event);
}

const report = (): ReceiverReport => ({ requests, duplicates, firstAtMs, lastAtMs, arrivals });

process.on('message', (command: ReceiverCommand) => {
  if (command.command === 'expect') {
    expected = command;
    arrivals = new Float64Array(command.messages * command.endpoints);
    [requests, told, duplicates, firstAtMs, lastAtMs] = [0, 0, 0, 0, 0];
    send({ event: 'expecting' });
  } else send({ event: 'report', report: report() });
});
process.on('disconnect', () => process.exit());
setInterval(tellProgress, PROGRESS_MS);

server.keepAliveTimeout = 60_000;
server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  send({ event: 'listening', port: typeof address === 'object' && address !== null ? address.port : 0 });
});
