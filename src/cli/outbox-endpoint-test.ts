import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import { prepareTest, sendTest, TEST_TOPIC } from '../outbox/endpoint-test.ts';
import { getLivingEndpoint } from '../outbox/endpoints.ts';
import type { CommandContext } from './context.ts';
import { printable } from './printable.ts';
import { withEndpoints } from './with-endpoints.ts';

interface Options {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

const SHOWN_CHARACTERS = 200;

export function registerEndpointTest(endpoint: Command, context: CommandContext): void {
  endpoint
    .command('test')
    .description('send an endpoint one signed test message now, and say what it answers')
    .argument('<id>', 'the endpoint; it may be disabled')
    .option('--dry-run', 'sign it, and send nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', TEST_HELP)
    .action((id: string, options: Options) => runTest(id, options, context));
}

const TEST_HELP = `
The request is made from here, without a worker: signed, guarded and bounded in time as every other, of the type ${TEST_TOPIC}. It is no
delivery: it is not tried again, waits for no place, and is written down nowhere. Ends with 1 where the answer is not 2xx.

Example:
  liventix outbox endpoint test 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4`;

async function runTest(given: string, options: Options, context: CommandContext): Promise<void> {
  const { dryRun = false, json = false } = options;
  await withEndpoints(context, options, async (pool, keyRing) => {
    const { id, timeoutMs } = await getLivingEndpoint(pool, given);
    const request = await prepareTest({ id }, { db: pool, keyRing, now: new Date() });
    const messageId = request.webhook.headers['webhook-id'];
    if (dryRun) {
      const wouldSend = { id, messageId, url: request.url.href };
      context.out.write(
        json ? `${toJson({ wouldSend })}\n` : `would send  ${messageId}  to ${printable(request.url.href)}\n`,
      );
      return;
    }
    const { egressAllow, egressDeny } = context.config;
    const outcome = await sendTest(request, { timeoutMs, egressAllow, egressDeny, stop: context.stop });
    const { status, statusCode = null, durationMs, response = null } = outcome;
    const error = outcome.status === 'failed' ? outcome.error : null;
    const firstBytes = response?.slice(0, SHOWN_CHARACTERS) ?? null;
    context.out.write(
      json
        ? `${toJson({ id, messageId, status, statusCode, durationMs, error, firstBytes })}\n`
        : `${status}  ${messageId}  ${printable(error ?? `answered ${statusCode}`)} in ${durationMs} ms${firstBytes ? `: ${printable(JSON.stringify(firstBytes))}` : ''}\n`,
    );
    if (outcome.status === 'failed') context.exitWith(1);
  });
}
