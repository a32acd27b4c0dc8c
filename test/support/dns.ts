import { createSocket } from 'node:dgram';
import { Resolver } from 'node:dns';
import { once } from 'node:events';
import type { ResolveName } from '../../src/outbox/name-lookups.ts';

export interface TestDns {
  /** For the egress agent, in place of the system's. */
  readonly resolve: ResolveName;
  /** The names that were asked for, in order. */
  readonly asked: readonly string[];
  stop(): Promise<void>;
}

const HEADER_BYTES = 12;
const TYPE_A = 1;

/** A name server on loopback. `answer` gives the IPv4 addresses of a name, at each question anew. */
export async function startDns(answer: (name: string) => readonly string[]): Promise<TestDns> {
  const asked: string[] = [];
  const socket = createSocket('udp4');
  socket.on('message', (query, from) => {
    const { name, type, end } = readQuestion(query);
    if (type === TYPE_A) asked.push(name);
    const records = (type === TYPE_A ? answer(name) : []).map(addressRecord);
    const header = Buffer.from(query.subarray(0, HEADER_BYTES));
    // An answer, recursion available, no error; one question and nothing but answers.
    header.writeUInt16BE(0x8180, 2);
    header.writeUInt16BE(records.length, 6);
    header.fill(0, 8);
    socket.send(Buffer.concat([header, query.subarray(HEADER_BYTES, end), ...records]), from.port, from.address);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const resolver = new Resolver();
  resolver.setServers([`127.0.0.1:${socket.address().port}`]);
  return {
    resolve: (name, _options, callback) =>
      resolver.resolve4(name, (error, addresses) =>
        callback(error, error === null ? addresses.map((address) => ({ address, family: 4 })) : []),
      ),
    asked,
    stop: async () => {
      resolver.cancel();
      const closed = once(socket, 'close');
      socket.close();
      await closed;
    },
  };
}

function readQuestion(query: Buffer): { name: string; type: number; end: number } {
  const labels: string[] = [];
  let at = HEADER_BYTES;
  for (let length = query.readUInt8(at); length > 0; length = query.readUInt8(at)) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  return { name: labels.join('.'), type: query.readUInt16BE(at + 1), end: at + 5 };
}

/** For the name of the question, of class IN, to be kept for no time at all. */
function addressRecord(address: string): Buffer {
  return Buffer.from([0xc0, HEADER_BYTES, 0, TYPE_A, 0, 1, 0, 0, 0, 0, 0, 4, ...address.split('.').map(Number)]);
}
