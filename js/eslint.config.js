import js from "@eslint/js";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["node_modules/"] },
  js.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true, ignoreVoidReturningFunctions: true }],
      "@typescript-eslint/non-nullable-type-assertion-style": "off", // it asks for what no-non-null-assertion forbids
      // Indexed access is typed without `undefined` (hot loops), so what looks needless may be the check that is needed.
      "@typescript-eslint/no-unnecessary-condition": "off",
      "@typescript-eslint/prefer-for-of": "off",
      eqeqeq: "error",
    },
  },
  {
    files: ["*.mjs", "*.js"],
    languageOptions: { globals: { console: "readonly", process: "readonly", TextDecoder: "readonly", TextEncoder: "readonly", URL: "readonly" } },
  },
);
