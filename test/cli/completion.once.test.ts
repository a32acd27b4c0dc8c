import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DELIVERY_STATES } from '../../src/outbox/deliveries-list.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';
import { type Shells, startShells } from '../support/shells.ts';

const SHELLS = ['bash', 'zsh', 'fish'] as const;

let shells: Shells;
let folder: string;
beforeAll(async () => {
  const [bash, zsh, fish] = await Promise.all(SHELLS.map((shell) => startLiventix(['completion', shell]).done));
  shells = await startShells({ bash: bash?.stdout ?? '', zsh: zsh?.stdout ?? '', fish: fish?.stdout ?? '' });
  folder = await mkdtemp(join(tmpdir(), 'completed-'));
  await writeFile(join(folder, 'a march.json'), '');
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
  await shells.drop();
});

describe.each(SHELLS)('%s', (shell) => {
  const offered = async (line: string) => (await shells[shell](line, folder)).map((each) => each.trim()).toSorted();

  it.each<[what: string, line: string, offers: readonly string[]]>([
    ['a command', 'liventix bo', ['books']],
    ['commands of a group', 'liventix ledger ', ['account', 'book', 'export', 'post']],
    ['a command of a command of a group', 'liventix outbox endpoint r', ['rotate-secret']],
    ['nothing where there is no such command', 'liventix nosuch', []],
    ['a flag', 'liventix books verify --cer', ['--certificate']],
    ['a flag behind a value that is called as a command', 'liventix migrate --json stat', ['status']],
    ['a flag behind another and its value', 'liventix books verify --book 2 --ind', ['--independent']],
    ['flags with no', 'liventix outbox endpoint update some --no-f', ['--no-filter']],
    ['choices of a flag', 'liventix ledger export --format ', ['beancount', 'csv', 'hledger']],
    ['a choice that is begun', 'liventix ledger export --format bean', ['beancount']],
    ['choices of an argument', 'liventix states show ', ['campaign', 'escrow', 'proposal', 'ticket']],
    ['choices of an argument that may be given again', 'liventix states install escrow t', ['ticket']],
    ['choices of an argument behind flags', 'liventix partitions schedule --dry-run ', ['pg_cron', 'worker']],
    ['nothing for a second argument of another kind', 'liventix states history escrow ', []],
    ['nothing for what nobody can foresee', 'liventix ledger account open --name ', []],
    ['commands by an alias', 'liventix outbox attachments --js', ['--json']],
  ])('completes %s: %s', async (_what, line, offers) => {
    expect(await offered(line)).toEqual([...offers]);
  });

  it('completes every state of a delivery, as they are today', async () => {
    expect(await offered('liventix outbox deliveries --state ')).toEqual([...DELIVERY_STATES].toSorted());
  });

  it('completes a choice behind =', async () => {
    const offers = await offered('liventix ledger export --format=');
    expect(offers.map((each) => each.replace('--format=', ''))).toEqual(['beancount', 'csv', 'hledger']);
  });

  it('completes files where a file is asked for, whatever they are called', async () => {
    const offers = await offered('liventix ledger post --file ');
    expect(offers.map((each) => each.replaceAll('\\', ''))).toEqual(['a march.json']);
  });

  it('shows no flag under a former name', async () => {
    expect(await offered('liventix books statement x --l')).toEqual(['--limit']);
  });
});

it('says how each script is installed', async () => {
  const help = (await liventix(['completion', '--help'])).stdout;
  for (const shell of SHELLS) expect(help).toContain(`liventix completion ${shell} > `);
});

it('refuses another shell, and says which there are', () =>
  expectRefusal({ code: 'USAGE', says: /Allowed choices are bash, zsh, fish/ }, ['completion', 'bsh'], {}));
