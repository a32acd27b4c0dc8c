import type { CompletedCommand, CompletedFlag, Value } from './completion-tree.ts';

/** A script for zsh: to be read at its start, or kept as `_liventix` in a folder of fpath. */
export function zshScript(tree: readonly CompletedCommand[]): string {
  const valued = tree.flatMap(({ path, flags }) =>
    flags.flatMap(({ name, value }) => (value === undefined ? [] : [{ key: `${path} ${name}`, value }])),
  );
  return `#compdef liventix
# Completion of liventix for zsh, made by: liventix completion zsh

# Finds the command of a path, and sets at, commands and flags.
_liventix_at() {
  case "$1" in
${tree.map(atCase).join('\n')}
    (*) return 1 ;;
  esac
}

# Finds what a flag of a command takes, and sets values.
_liventix_flag() {
  case "$1" in
${valued.map(({ key, value }) => `    (${quoted(key)}) values=${valuesOf(value)} ;;`).join('\n')}
    (*) return 1 ;;
  esac
}

# Finds what a command takes in a place, and sets values.
_liventix_argument() {
  case "$1" in
${tree.flatMap(argumentCases).join('\n')}
    (*) values=() ;;
  esac
}

_liventix() {
  local word at='' pending=''
  local -a commands flags values
  integer n=0
  _liventix_at ''
  for word in "\${(@)words[2,CURRENT-1]}"; do
    if [[ -n $pending ]]; then
      pending=''
    elif [[ $word == -*=* ]]; then
      continue
    elif [[ $word == -* ]]; then
      if _liventix_flag "$at $word"; then pending=$word; fi
    elif ! _liventix_at "\${at:+$at }$word"; then
      (( n += 1 ))
    fi
  done
  if [[ -z $pending && $PREFIX == --*=* ]]; then
    pending=\${PREFIX%%=*}
    compset -P '*='
  fi
  if [[ -n $pending ]]; then
    _liventix_flag "$at $pending"
  elif [[ $PREFIX == -* ]]; then
    _describe -o 'option' flags
    return
  elif (( $#commands && n == 0 )); then
    _describe 'command' commands
    return
  else
    _liventix_argument "$at $n"
  fi
  if [[ \${values[1]:-} == '<file>' ]]; then
    _files
  elif (( $#values )); then
    compadd -a values
  fi
}

if [[ \${funcstack[1]:-} == _liventix ]]; then
  _liventix "$@"
else
  compdef _liventix liventix
fi
`;
}

const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

const described = ({ name, description }: Pick<CompletedFlag, 'name' | 'description'>) =>
  quoted(`${name}:${description}`);

const atCase = ({ path, aliases, commands, flags }: CompletedCommand): string =>
  `    (${[path, ...aliases].map(quoted).join(' | ')})
      at=${quoted(path)}
      commands=(${commands.map(described).join(' ')})
      flags=(${flags.map(described).join(' ')}) ;;`;

function argumentCases({ path, values, isVariadic }: CompletedCommand): readonly string[] {
  return values.flatMap((value, nth) => {
    if (value.kind === 'free') return [];
    const isAnyFurther = isVariadic && nth === values.length - 1;
    return [`    (${quoted(`${path} `)}${isAnyFurther ? '*' : nth}) values=${valuesOf(value)} ;;`];
  });
}

function valuesOf(value: Value): string {
  switch (value.kind) {
    case 'choice':
      return `(${value.names.map(quoted).join(' ')})`;
    case 'file':
      return `('<file>')`;
    case 'free':
      return '()';
  }
}
