/** What jsdom lacks: a layout, so that virtualised lists have a height to fill. */
import { cleanup, configure } from '@testing-library/react';
import { afterEach, vi } from 'vitest';

// Generous: there may be two cores, and others at work on them.
configure({ asyncUtilTimeout: 10_000 });

class ResizeObserverStub implements ResizeObserver {
  constructor(private readonly tell: ResizeObserverCallback) {}
  observe(target: Element) {
    const size = [{ inlineSize: 1200, blockSize: 400 }];
    const entry = { target, contentRect: { width: 1200, height: 400 }, borderBoxSize: size, contentBoxSize: size };
    this.tell([entry as unknown as ResizeObserverEntry], this);
  }
  unobserve() {}
  disconnect() {}
}
vi.stubGlobal('ResizeObserver', ResizeObserverStub);
Object.defineProperty(Element.prototype, 'clientHeight', { configurable: true, value: 400 });
Object.defineProperty(Element.prototype, 'clientWidth', { configurable: true, value: 1200 });
Element.prototype.scrollIntoView = () => undefined;
Element.prototype.scrollTo = () => undefined;
Element.prototype.getAnimations = () => [];

afterEach(() => {
  cleanup();
  localStorage.clear();
});
