import { Webhook } from 'standardwebhooks';

/** What a delivery announces, as the database has it. */
export interface Message {
  readonly id: string;
  readonly topic: string;
  readonly createdAt: Date;
  /** As PostgreSQL prints it: parsing would round numbers beyond a double's precision. */
  readonly payloadJson: string;
}

export interface SignedWebhook {
  readonly headers: Readonly<Record<string, string>>;
  /** The exact bytes that were signed. */
  readonly body: Buffer;
}

/**
 * The request of a message by https://www.standardwebhooks.com: `webhook-id` and body are the same at every attempt,
 * the timestamp is the attempt's.
 * @param secret `whsec_` and base64
 */
export function signWebhook(message: Message, options: { secret: string; now: Date }): SignedWebhook {
  const id = `msg_${message.id}`;
  const timestamp = JSON.stringify(message.createdAt.toISOString());
  const body = `{"type":${JSON.stringify(message.topic)},"timestamp":${timestamp},"data":${message.payloadJson}}`;
  return {
    headers: {
      'content-type': 'application/json',
      'user-agent': 'liventix-outbox',
      'webhook-id': id,
      'webhook-timestamp': Math.floor(options.now.getTime() / 1000).toString(),
      'webhook-signature': new Webhook(options.secret).sign(id, options.now, body),
    },
    body: Buffer.from(body, 'utf8'),
  };
}
