import type { Command } from 'commander';
import { Option } from 'commander';
import { toJson } from '../db/json-value.ts';
import { AppError } from '../errors.ts';
import { assertKeyFits, someOf } from '../outbox/endpoint-secrets.ts';
import { acceptedSettings, type EndpointSettings } from '../outbox/endpoint-settings.ts';
import { addEndpoint, differingSettings, findByUrl, getLivingEndpoint, updateEndpoint } from '../outbox/endpoints.ts';
import { newSecret, SECRET_KINDS, type SecretKind } from '../outbox/signing-secret.ts';
import type { CommandContext } from './context.ts';
import {
  addSettingFlags,
  changedText,
  type SettingFlags,
  STANDARD_SCHEDULE,
  settingsOf,
  shownSettings,
} from './outbox-endpoint-flags.ts';
import { registerEndpointSecret, secretJson, secretLine, suppliedSecret } from './outbox-endpoint-secret.ts';
import { registerEndpointShow } from './outbox-endpoint-show.ts';
import { registerEndpointState } from './outbox-endpoint-state.ts';
import { registerEndpointTest } from './outbox-endpoint-test.ts';
import { printable } from './printable.ts';
import { assertOneStdin } from './small-file.ts';
import { withEndpoints } from './with-endpoints.ts';

interface Options extends SettingFlags {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

interface AddOptions extends Options {
  readonly kind?: SecretKind;
  readonly secretFile?: string;
}

/** Who receives webhooks, and all that there is to say about it. */
export function registerOutboxEndpoint(outbox: Command, context: CommandContext): void {
  const endpoint = outbox
    .command('endpoint')
    .description('the endpoints that webhooks go to')
    .addHelpText(
      'after',
      "\nExamples:\n  liventix outbox endpoint list\n  liventix outbox endpoint add --url https://example.com/hooks --topic 'ticket.*'",
    );
  registerAdd(endpoint, context);
  registerEndpointShow(endpoint, context);
  registerUpdate(endpoint, context);
  registerEndpointSecret(endpoint, context);
  registerEndpointState(endpoint, context);
  registerEndpointTest(endpoint, context);
}

function registerAdd(endpoint: Command, context: CommandContext): void {
  const add = endpoint
    .command('add')
    .description('subscribe a URL to topics; prints its id, and once what the receiver verifies with')
    .requiredOption('--url <url>', 'where to POST, http(s)')
    .requiredOption('--topic <topic>', 'a topic, ticket.* or *; repeat it for more', collectTopic);
  addSettingFlags(add, { clearing: false })
    .addOption(
      new Option('--kind <kind>', 'v1 (HMAC, a shared secret) or v1a (ed25519, a public key)').choices(SECRET_KINDS),
    )
    .addOption(
      new Option('--secret-file <file>', 'a secret of your own, whsec_… or whsk_…; - reads it from stdin').conflicts(
        'kind',
      ),
    )
    .option('--dry-run', 'say whether it would be taken, and add nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', ADD_HELP)
    .action((options: AddOptions) => runAdd(options, context));
}

const ADD_HELP = `
The receiver verifies by https://www.standardwebhooks.com, in any language. Its secret is kept encrypted by OUTBOX_ENCRYPTION_KEY and is not
shown again. It receives what is announced from now on. Headers of the message itself come after those given here.
Without --retry the waits are the standard schedule: ${STANDARD_SCHEDULE}.

Examples:
  liventix outbox endpoint add --url https://example.com/hooks --topic 'ticket.*' --topic payment.received
  liventix outbox endpoint add --url https://example.com/paid --topic order.changed --filter '{"status": "paid"}' --retry 5s,1m --kind v1a`;

async function runAdd(options: AddOptions, context: CommandContext): Promise<void> {
  assertOneStdin({ '--secret-file': options.secretFile, '--headers-file': options.headersFile });
  const settings = (await settingsOf(options)) as Partial<EndpointSettings> & Pick<EndpointSettings, 'url' | 'topics'>;
  const secret = (await suppliedSecret(options.secretFile)) ?? newSecret(options.kind ?? 'v1');
  const { egressAllow, egressDeny } = context.config;
  const lists = { egressAllow, egressDeny };
  await withEndpoints(context, options, async (pool, keyRing) => {
    await assertKeyFits(pool, keyRing);
    const accepted = shownSettings(acceptedSettings(settings, lists));
    const url = accepted.url ?? '';
    const same = await findByUrl(pool, url);
    if (options.dryRun) {
      const text = `would add  ${printable(url)}  ${settings.topics.join(' ')}\n`;
      context.out.write(options.json ? `${toJson({ wouldAdd: accepted })}\n` : text);
      noteSame(same, context);
      return;
    }
    const added = await addEndpoint(pool, { ...settings, ...lists, keyRing, secret });
    context.out.write(
      options.json
        ? `${toJson({ id: added.id, url, ...secretJson(added) })}\n`
        : `id      ${added.id}\nurl     ${printable(url)}\n${secretLine(added)}`,
    );
    noteSame(same, context);
  });
}

function noteSame(ids: readonly string[], { err }: CommandContext): void {
  if (ids.length > 0) err.write(`Note: ${someOf(ids)} ${ids.length === 1 ? 'has' : 'have'} this URL too.\n`);
}

function registerUpdate(endpoint: Command, context: CommandContext): void {
  const update = endpoint
    .command('update')
    .description('change what is named, and nothing else')
    .argument('<id>', 'the endpoint')
    .option('--url <url>', 'where to POST from now on')
    .option('--topic <topic>', 'in place of the topics there are; repeat it for more', collectTopic);
  addSettingFlags(update, { clearing: true })
    .option('--dry-run', 'say what would change, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', UPDATE_HELP)
    .action((id: string, options: Options) => runUpdate(id, options, context));
}

const UPDATE_HELP = `
Holds for every request that begins from now on, those of deliveries that wait included; what is announced is judged by topics, organization
and filter when it is taken from the outbox.

Examples:
  liventix outbox endpoint update 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --timeout 5s --rate 100
  liventix outbox endpoint update 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --no-filter --no-retry`;

async function runUpdate(given: string, options: Options, context: CommandContext): Promise<void> {
  const settings = await settingsOf(options);
  if (Object.keys(settings).length === 0) {
    throw new AppError('USAGE', 'Name what is to change. See: liventix outbox endpoint update --help');
  }
  const { egressAllow, egressDeny } = context.config;
  const lists = { egressAllow, egressDeny };
  await withEndpoints(context, options, async (pool) => {
    const { id } = await getLivingEndpoint(pool, given);
    const apply = options.dryRun ? differingSettings : updateEndpoint;
    const differing: ReadonlySet<string> = new Set(await apply(pool, id, { settings, ...lists }));
    const accepted = Object.entries(acceptedSettings(settings, lists)).filter(([name]) => differing.has(name));
    const shown = shownSettings(Object.fromEntries(accepted));
    const [key, words] = options.dryRun
      ? (['wouldChange', 'would change'] as const)
      : (['changed', 'changed'] as const);
    const text = differing.size === 0 ? `unchanged  ${id}  it is so already\n` : changedText(words, id, shown);
    context.out.write(options.json ? `${toJson({ id, [key]: shown })}\n` : text);
  });
}

function collectTopic(topic: string, previous: readonly string[] = []): readonly string[] {
  return [...previous, topic];
}
