import type { KeyObject } from 'node:crypto';
import type { Headers } from './headers.ts';
import { type SecretKind, signatureBy } from './signing-secret.ts';

/** What a delivery announces, as the database has it. */
export interface Message {
  readonly id: string;
  readonly topic: string;
  readonly createdAt: Date;
  /** As PostgreSQL prints it: parsing would round numbers beyond a double's precision. */
  readonly payloadJson: string;
  /** An object of strings, if whoever announced it wrote one. */
  readonly headers: unknown;
}

export interface Signer {
  readonly kind: SecretKind;
  readonly key: KeyObject;
}

export interface SignedWebhook {
  readonly headers: Headers;
  /** The exact bytes that were signed. */
  readonly body: Buffer;
}

/**
 * The request of a message by https://www.standardwebhooks.com: `webhook-id` and body are the same at every attempt,
 * the timestamp is the attempt's.
 * @param options.signers one signature each, in this order
 * @param options.headers sent beside ours, and never instead of them
 */
export function signWebhook(
  message: Omit<Message, 'headers'>,
  options: { signers: readonly Signer[]; headers: Headers; now: Date },
): SignedWebhook {
  const id = `msg_${message.id}`;
  // PostgreSQL's infinity comes as a number, and is refused as well.
  const announcedAt = JSON.stringify(new Date(message.createdAt).toISOString());
  const timestamp = Math.floor(options.now.getTime() / 1000).toString();
  const body = `{"type":${JSON.stringify(message.topic)},"timestamp":${announcedAt},"data":${message.payloadJson}}`;
  const content = Buffer.from(`${id}.${timestamp}.${body}`, 'utf8');
  return {
    headers: {
      'user-agent': 'liventix-outbox',
      ...options.headers,
      'content-type': 'application/json',
      'webhook-id': id,
      'webhook-timestamp': timestamp,
      'webhook-signature': options.signers.map((signer) => signatureBy(signer, content)).join(' '),
    },
    body: content.subarray(content.length - Buffer.byteLength(body, 'utf8')),
  };
}
