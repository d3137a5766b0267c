/** The completion of a policy as JSON: what is offered where, and that the keyboard is enough. */
import { screen } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import axe from 'axe-core';
import { useState } from 'react';
import { describe, expect, it } from 'vitest';
import { FIELDS, type Field } from '../src/screens/service/policy-fields';
import { completionsAt } from '../src/screens/service/policy-completion';
import { PolicyJson } from '../src/screens/service/policy-json';
import { show } from './fixture';

/** What is offered where the text has a bar. */
function at(text: string, versions: string[] = []): string[] {
  const caret = text.indexOf('|');
  return (completionsAt(text.replace('|', ''), caret, versions)?.items ?? []).map((item) => item.label);
}
/** The text after the first offer was taken. */
function taken(text: string): string {
  const plain = text.replace('|', '');
  const found = completionsAt(plain, text.indexOf('|'));
  return found ? plain.slice(0, found.from) + (found.items[0]?.text ?? '') + plain.slice(found.to) : plain;
}

describe('what can be typed next', () => {
  it('is a name of the section, without those that are there before or after', () => {
    expect(at('{ |')).toEqual(FIELDS.map((field) => field.name));
    expect(at('{ "se|')).toEqual(['selection']);
    expect(at('{\n "health": {},\n "|\n "probe": {}\n}')).not.toContain('probe');
    expect(at('{\n "health": {},\n "|\n}')).toContain('probe');
    expect(at('{"traffic": {"retries": {"attem|')).toEqual(['attempts']);
    expect(at('{"traffic": {"split": [{"version": "1", "|"}]}}')).toEqual(['weight']);
  });
  it('is a value: of an enumeration, of a list, a default, a registered version', () => {
    expect(at('{"probe": {"kind": "|"}}')).toEqual(['heartbeat', 'http', 'tcp', 'grpc']);
    expect(at('{"probe": {"kind": |')).toContain('grpc');
    expect(at('{"traffic": {"retries": {"on": ["connect", "re|"]}}}')).toContain('reset');
    expect(at('{"selection": {"hash_key": {"from": "|"}}}')).toEqual(['client_address', 'header', 'query']);
    expect(at('{"probe": {"interval_ms": |}}')).toEqual(['15000']);
    expect(at('{"probe": {"insecure_tls": t|}}')).toEqual(['true']);
    expect(at('{"traffic": {"split": [{"version": "|"}]}}', ['1.0', '2.0'])).toEqual(['1.0', '2.0']);
    expect(at('{"traffic": {"hedging": |')).toEqual(['{}', 'null']);
  });
  it('is nothing where the API has no field, where all is said, and where a number is typed', () => {
    for (const text of ['{"nobody": {"|', '{"probe": {"kind": "http"|}}', '{"probe": {"kind"|', '{"probe": {"interval_ms": 15|}}', '|', '[|', '{"probe": {"path": "/hea|']) {
      expect(at(text), text).toEqual([]);
    }
  });
  it('replaces what was typed, and nothing that follows', () => {
    expect(taken('{"sel|')).toBe('{"selection": ');
    expect(taken('{"sel|": {}}')).toBe('{"selection": {}}');
    expect(taken('{"probe": {"kind": "ht|", "path": "/x"}}')).toBe('{"probe": {"kind": "http", "path": "/x"}}');
    expect(taken('{"sel|, "probe": {}}')).toBe('{"selection": , "probe": {}}');
  });
  it('is offered in every section of the document', () => {
    const sections = (fields: readonly Field[], before: string): void => {
      for (const field of fields) {
        if (field.kind !== 'section' || field.fields.length === 0) continue;
        expect(at(`${before}"${field.name}": {|`), field.name).toEqual(field.fields.map((f) => f.name));
        sections(field.fields, `${before}"${field.name}": {`);
      }
    };
    sections(FIELDS, '{');
  });
});

function Held({ begin }: { begin: string }) {
  const [text, setText] = useState(begin);
  return <PolicyJson value={text} onChange={setText} readOnly={false} error={null} versions={['1.0']} />;
}

describe('the JSON of a policy', () => {
  it('is completed with the keyboard alone, and Enter and the arrows are free again when the list is closed', async () => {
    show(<Held begin="{" />);
    const area = screen.getByLabelText<HTMLTextAreaElement>('Policy as JSON');
    await userEvent.click(area);
    area.setSelectionRange(1, 1);
    await userEvent.keyboard('"pro');
    expect(screen.getByRole('option', { selected: true }).textContent).toContain('probe');
    expect(area.getAttribute('aria-activedescendant')).toBe(screen.getByRole('option', { selected: true }).id);
    expect((await axe.run(document.body, { runOnly: ['wcag2a', 'wcag2aa'] })).violations.filter((v) => v.nodes.some((n) => n.html.includes('suggestions') || n.html.includes('option')))).toEqual([]);
    await userEvent.keyboard('{Enter}');
    expect(area.value).toBe('{"probe": ');
    // The value is offered at once.
    await userEvent.keyboard('{Enter}');
    expect(area.value).toBe('{"probe": {}');
    await userEvent.keyboard('"kind": "{ArrowDown}{Enter}');
    expect(area.value).toBe('{"probe": {"kind": "http"}');
    expect(screen.queryByRole('listbox')).toBeNull();
    await userEvent.keyboard(',{Enter}');
    expect(area.value).toBe('{"probe": {"kind": "http",\n}');
    await userEvent.keyboard('{Control>} {/Control}');
    expect(screen.getAllByRole('option').length).toBeGreaterThan(3);
    await userEvent.keyboard('{Escape}');
    expect(screen.queryByRole('listbox')).toBeNull();
    expect(document.activeElement).toBe(area);
    await userEvent.tab();
    expect(document.activeElement).not.toBe(area);
  });
});
