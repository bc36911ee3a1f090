// Reads {mathjax, macros, formulas: [{page, tex, display}]} and writes a list with one line for each faulty formula.
const request = JSON.parse(require("fs").readFileSync(0, "utf8"));
const tex = {
  macros: request.macros,
  packages: { "[-]": ["noundefined", "noerrors"] },
  formatError: (_, error) => { throw error; },
};
require(request.mathjax)
  .init({ loader: { load: ["input/tex"] }, tex })
  .then(async (MathJax) => {
    const bad = [];
    for (const { page, tex, display } of request.formulas) {
      try {
        await MathJax.tex2mmlPromise(tex, { display });
      } catch (error) {
        bad.push(`${page}: ${error.message}: ${tex.trim().slice(0, 90)}`);
      }
    }
    process.stdout.write(JSON.stringify(bad));
  })
  .catch((error) => { console.error(error); process.exit(2); });
