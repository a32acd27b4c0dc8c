import type { CompletedCommand, Value } from './completion-tree.ts';

/** A script for bash 3.2 and newer, which needs no package of completions. */
export function bashScript(tree: readonly CompletedCommand[]): string {
  const valued = tree.flatMap(({ path, flags }) =>
    flags.flatMap(({ name, value }) => (value === undefined ? [] : [{ key: `${path} ${name}`, value }])),
  );
  return `# Completion of liventix for bash, made by: liventix completion bash

# Finds the command of a path, and sets at, commands and flags.
_liventix_at() {
  case "$1" in
${tree.map(atCase).join('\n')}
    *) return 1 ;;
  esac
}

# Finds what a flag of a command takes, and sets values.
_liventix_flag() {
  case "$1" in
${valued.map(({ key, value }) => `    ${quoted(key)}) values=${quoted(valuesOf(value))} ;;`).join('\n')}
    *) return 1 ;;
  esac
}

# Finds what a command takes in a place, and sets values.
_liventix_argument() {
  case "$1" in
${tree.flatMap(argumentCases).join('\n')}
    *) values='' ;;
  esac
}

_liventix() {
  local cur=\${COMP_WORDS[COMP_CWORD]} word at='' commands='' flags='' values='' pending='' i n=0
  COMPREPLY=()
  _liventix_at ''
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    # bash makes three words of --flag=value.
    if [[ $word == '=' ]]; then continue; fi
    if [[ -n $pending ]]; then
      pending=''
    elif [[ $word == -* ]]; then
      if _liventix_flag "$at $word"; then pending=$word; fi
    elif ! _liventix_at "\${at:+$at }$word"; then
      n=$((n + 1))
    fi
  done
  if [[ $cur == '=' ]]; then cur=''; fi
  if [[ -n $pending ]]; then
    _liventix_flag "$at $pending"
  elif [[ $cur == -* ]]; then
    values=$flags
  elif [[ -n $commands && $n -eq 0 ]]; then
    values=$commands
  else
    _liventix_argument "$at $n"
  fi
  if [[ $values == '<file>' ]]; then
    compopt -o filenames 2>/dev/null
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")
  else
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$values" -- "$cur")
  fi
}

complete -F _liventix liventix
`;
}

const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

const atCase = ({ path, aliases, commands, flags }: CompletedCommand): string =>
  `    ${[path, ...aliases].map(quoted).join(' | ')}) at=${quoted(path)} commands=${quoted(commands.map(({ name }) => name).join(' '))} flags=${quoted(flags.map(({ name }) => name).join(' '))} ;;`;

function argumentCases({ path, values, isVariadic }: CompletedCommand): readonly string[] {
  return values.flatMap((value, nth) => {
    if (value.kind === 'free') return [];
    const isAnyFurther = isVariadic && nth === values.length - 1;
    return [`    ${quoted(`${path} `)}${isAnyFurther ? '*' : nth}) values=${quoted(valuesOf(value))} ;;`];
  });
}

function valuesOf(value: Value): string {
  switch (value.kind) {
    case 'choice':
      return value.names.join(' ');
    case 'file':
      return '<file>';
    case 'free':
      return '';
  }
}
