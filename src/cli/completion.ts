import { Argument, type Command } from 'commander';
import { bashScript } from './completion-bash.ts';
import { fishScript } from './completion-fish.ts';
import { type CompletedCommand, completionTree } from './completion-tree.ts';
import { zshScript } from './completion-zsh.ts';
import type { CommandContext } from './context.ts';

type Script = (tree: readonly CompletedCommand[]) => string;

const SCRIPTS: Readonly<Record<string, Script>> = { bash: bashScript, zsh: zshScript, fish: fishScript };

const HELP = `
The script has every command, flag and choice of this version, and starts nothing when a key is pressed: make it anew after an upgrade.

bash   liventix completion bash > ~/.local/share/bash-completion/completions/liventix
       or, without the package bash-completion, in ~/.bashrc: source <(liventix completion bash)
zsh    liventix completion zsh > "\${fpath[1]}/_liventix", and in ~/.zshrc: autoload -Uz compinit && compinit
fish   liventix completion fish > ~/.config/fish/completions/liventix.fish

Examples:
  liventix completion bash > ~/.local/share/bash-completion/completions/liventix
  liventix completion fish > ~/.config/fish/completions/liventix.fish`;

/** Needs every command of the program to be there when it is run. */
export function registerCompletion(program: Command, { out }: CommandContext): void {
  program
    .command('completion')
    .description('print a script that completes commands, flags and choices in a shell')
    .addArgument(new Argument('<shell>', 'the shell that reads it').choices(Object.keys(SCRIPTS)))
    .addHelpText('after', HELP)
    .action((shell: string) => {
      out.write(SCRIPTS[shell]?.(completionTree(program)) ?? '');
    });
}
