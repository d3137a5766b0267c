import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

/** Where `npm run dev` finds a running node. */
const NODE_URL = process.env.MAXINE_URL ?? 'http://127.0.0.1:8080';

export default defineConfig({
  base: './',
  plugins: [react()],
  build: {
    target: 'es2023',
    outDir: 'dist',
    // A data: URI would need an exception in the Content-Security-Policy.
    assetsInlineLimit: 0,
    sourcemap: false,
    manifest: true,
  },
  server: {
    host: '127.0.0.1',
    proxy: { '/api': { target: NODE_URL, changeOrigin: true } },
  },
  test: {
    environment: 'jsdom',
    setupFiles: ['test/setup.ts'],
    include: ['test/**/*.test.{ts,tsx}'],
    restoreMocks: true,
    // Generous: there may be two cores, and others at work on them.
    testTimeout: 20_000,
  },
});
