import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const DEADLINE_MS = 20_000;

/** What a shell offers when the Tab key is pressed at the end of a line; `cwd` is where it looks for files. */
type Complete = (line: string, cwd?: string) => Promise<readonly string[]>;

export interface Shells {
  readonly bash: Complete;
  readonly zsh: Complete;
  readonly fish: Complete;
  drop(): Promise<void>;
}

/** Real shells that have read the scripts. */
export async function startShells(scripts: Readonly<Record<'bash' | 'zsh' | 'fish', string>>): Promise<Shells> {
  const folder = await mkdtemp(join(tmpdir(), 'liventix-shells-'));
  const files = { bash: join(folder, 'liventix.bash'), zsh: join(folder, '_liventix'), fish: join(folder, 'l.fish') };
  for (const [shell, file] of Object.entries(files)) await writeFile(file, scripts[shell as keyof typeof scripts]);
  const ask = async (command: string, args: readonly string[], cwd = folder): Promise<readonly string[]> => {
    const { stdout, stderr } = await run(command, [...args], { cwd, timeout: DEADLINE_MS });
    if (stderr !== '') throw new Error(stderr);
    return stdout.split('\n').filter((each) => each !== '');
  };
  return {
    bash: (line, cwd) => ask('bash', ['--norc', '--noprofile', '-c', BASH, 'bash', files.bash, line], cwd),
    zsh: async (line, cwd) => {
      const offers = join(await mkdtemp(join(folder, 'zsh-')), 'offers');
      await ask('zsh', ['-f', '-c', ZSH, 'zsh', files.zsh, line, offers], cwd);
      return (await readFile(offers, 'utf8')).split('\n').filter((each) => each !== '');
    },
    fish: async (line, cwd) => {
      const offers = await ask('fish', ['--no-config', '-c', FISH, '--', files.fish, line], cwd);
      return offers.map((each) => each.split('\t')[0] ?? '');
    },
    drop: () => rm(folder, { recursive: true, force: true }),
  };
}

// Splits the line as readline does, whose COMP_WORDBREAKS has the = between a flag and its value.
const BASH = `
source "$1"
complete -p liventix >/dev/null || exit 1
read -ra COMP_WORDS <<<"\${2//=/ = }"
[[ $2 == *[\\ =] ]] && COMP_WORDS+=('')
COMP_CWORD=$(( \${#COMP_WORDS[@]} - 1 ))
[[ $2 == *= ]] && { unset "COMP_WORDS[COMP_CWORD]"; COMP_CWORD=$(( COMP_CWORD - 1 )); }
_liventix liventix
printf '%s\\n' "\${COMPREPLY[@]}"
`;

const FISH = 'source $argv[1]; complete -C "$argv[2]"; or true';

// A terminal with a shell of its own, whose completion writes down what it would offer.
const ZSH = `
script=$1 line=$2 offers=$3
cat >$offers.rc <<EOF
PS1= PS2=
autoload -Uz compinit && compinit -u -d $offers.dump
source $script
compadd() {
  if [[ \\\${@[1,(i)(-|--)]} == *-[OAD]* ]]; then builtin compadd "\\$@"; return; fi
  local -a hits
  builtin compadd -A hits "\\$@"
  print -rl -- \\$hits >>$offers
  builtin compadd "\\$@"
}
LISTMAX=100000
complete-and-tell() { zle complete-word; : >$offers.done }
zle -N complete-and-tell
bindkey '^I' complete-and-tell
EOF
: >$offers
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "source $offers.rc; : >$offers.ready"
await() {
  local said
  until [[ -e $1 ]]; do zpty -r -t z said || sleep 0.02; done
}
await $offers.ready
zpty -w -n z "$line"$'\\t'
await $offers.done
zpty -d z
`;
