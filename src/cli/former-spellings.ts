import { type Command, Option } from 'commander';

/** What flags were called in earlier versions, by command: the scripts that say so go on. */
const FORMER_SPELLINGS: readonly (readonly [command: string, current: string, former: string])[] = [
  ['backfill cutover', '--organization', '--org'],
  ['backfill rollback', '--organization', '--org'],
  ['backfill approve', '--organization', '--org'],
  ['books balance', '--as-of', '--at'],
  ['books statement', '--limit', '--lines'],
  ['partitions maintain', '--yes', '--confirm'],
  ['restructure plan', '--output', '--out'],
  ['restructure accesses record', '--output', '--out'],
  ['restructure perf record', '--output', '--out'],
  ['restructure perf compare', '--output', '--out'],
  ['rollups plan', '--mapping', '--file'],
  ['rollups apply', '--mapping', '--file'],
];

/** Sets what the option sets that took its place, and is shown by no help. */
class FormerSpelling extends Option {
  readonly #current: Option;

  constructor(former: string, current: Option) {
    super(current.flags.replace(current.long ?? '', former));
    this.#current = current;
    this.hideHelp();
    if (current.parseArg !== undefined) this.argParser(current.parseArg);
  }

  override attributeName(): string {
    return this.#current.attributeName();
  }
}

/** Keeps what flags were called before working, of those commands that are there. */
export function keepFormerSpellings(program: Command): void {
  for (const [path, current, former] of FORMER_SPELLINGS) {
    const command = path
      .split(' ')
      .reduce<Command | undefined>((found, name) => found?.commands.find((each) => each.name() === name), program);
    const option = command?.options.find(({ long }) => long === current);
    if (option !== undefined) command?.addOption(new FormerSpelling(former, option));
  }
}
