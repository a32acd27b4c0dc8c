import type { CompletedCommand, CompletedFlag, Value } from './completion-tree.ts';

/** A script for fish 3 and newer. */
export function fishScript(tree: readonly CompletedCommand[]): string {
  const valued = tree.flatMap(({ path, flags }) =>
    flags.filter(({ value }) => value !== undefined).map(({ name }) => `${path} ${name}`.trim()),
  );
  return `# Completion of liventix for fish, made by: liventix completion fish

set -g __liventix_commands ${tree
    .flatMap(({ path, aliases }) => [path, ...aliases])
    .filter((path) => path !== '')
    .map(quoted)
    .join(' ')}
set -g __liventix_valued ${valued.map(quoted).join(' ')}

# Whether the command so far is one of these, with so many values behind it: 1, 1+ or any.
function __liventix_at -a number
    set -l at ''
    set -l n 0
    set -l pending 0
    set -l words (commandline -opc)
    for word in $words[2..-1]
        if test $pending = 1
            set pending 0
        else if string match -q -- '-*' $word
            if contains -- (string trim -- "$at $word") $__liventix_valued
                set pending 1
            end
        else if contains -- (string trim -- "$at $word") $__liventix_commands
            set at (string trim -- "$at $word")
        else
            set n (math $n + 1)
        end
    end
    contains -- "$at" $argv[2..-1]; or return 1
    switch $number
        case any
            return 0
        case '*+'
            test $n -ge (string trim -r -c + -- $number)
        case '*'
            test $n -eq $number
    end
end

complete -c liventix -f
${tree.flatMap(commandLines).join('\n')}
`;
}

const quoted = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;

function commandLines(command: CompletedCommand): readonly string[] {
  const { path, aliases, commands, flags, values, isVariadic } = command;
  const at = (number: string) =>
    `complete -c liventix -n ${quoted(['__liventix_at', number, ...[path, ...aliases].map((each) => `"${each}"`)].join(' '))}`;
  return [
    ...commands.map(({ name, description }) => `${at('0')} -a ${name} -d ${quoted(description)}`),
    ...flags.map((flag) => `${at('any')} -l ${flag.name.slice(2)}${takes(flag)} -d ${quoted(flag.description)}`),
    ...values.flatMap((value, nth) => {
      const isAnyFurther = isVariadic && nth === values.length - 1;
      return value.kind === 'free' ? [] : [`${at(isAnyFurther ? `${nth}+` : `${nth}`)}${offers(value)}`];
    }),
  ];
}

function takes({ value }: CompletedFlag): string {
  if (value === undefined) return '';
  return value.kind === 'file' ? ' -r -F' : ` -x${offers(value)}`;
}

function offers(value: Value): string {
  switch (value.kind) {
    case 'choice':
      return ` -a ${quoted(value.names.join(' '))}`;
    case 'file':
      return ' -F';
    case 'free':
      return '';
  }
}
