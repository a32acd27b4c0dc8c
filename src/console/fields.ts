import { html, type Markup } from '../html/markup.ts';

interface Field {
  readonly name: string;
  readonly label: string;
  readonly value: string | undefined;
  readonly placeholder?: string;
}

export const textField = ({ name, label, value, placeholder }: Field): Markup =>
  html`<label>${label} <input name="${name}" value="${value ?? ''}"${placeholder === undefined ? '' : html` placeholder="${placeholder}"`}></label>`;

/** A choice of one, or of none: the first, which stands for all. */
export const choiceField = ({ name, label, value, all = 'all', choices }: ChoiceField): Markup =>
  html`<label>${label} <select name="${name}"><option value="">${all}</option>${choices.map(([choice, text]) => option(choice, text, value))}</select></label>`;

interface ChoiceField extends Omit<Field, 'placeholder'> {
  readonly all?: string;
  readonly choices: readonly (readonly [value: string, text: string])[];
}

const option = (choice: string, text: string, chosen: string | undefined): Markup =>
  html`<option value="${choice}"${choice === chosen ? html` selected` : ''}>${text}</option>`;

/** A form that asks for the page that it is on, with other values. */
export const filterForm = (
  fields: readonly Markup[],
  { action, label = 'Show' }: { action?: string; label?: string } = {},
): Markup =>
  html`<form class="filter" method="get"${action === undefined ? '' : html` action="${action}"`}>${fields}<button type="submit">${label}</button></form>`;
