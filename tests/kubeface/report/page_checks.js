// What is wrong with a page: each check returns a line for each fault. One object, for page.evaluate.
({
  // Elements that stick out of the window; `inside` are those that may.
  stickingOut: (inside = '.scroll, svg') => [...document.querySelectorAll('body *')]
    .filter(e => !e.parentElement.closest(inside))
    .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5)
    .map(e => `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 40)}`),

  brokenPictures: () => [...document.images].filter(e => !e.complete || !e.naturalWidth).map(e => e.alt),

  // WCAG 2.1, success criterion 1.4.3: contrast of text with what lies behind it.
  lowContrast: () => {
    const parts = colour => colour.match(/[\d.]+/g).map(Number);
    const light = colour => parts(colour).slice(0, 3)
        .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = e => {
        for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            const alpha = parts(colour)[3];
            if (alpha === undefined || alpha === 1) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const texts = [...document.querySelectorAll('body *')]
        .filter(e => e.tagName !== 'title' && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
    if (texts.length < 100) return ['too little text was looked at'];
    return texts.map(e => {
        const style = getComputedStyle(e);
        const [a, b] = [light(e.closest('svg') ? style.fill : style.color), light(behind(e))];
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e];
    }).filter(([ratio]) => !(ratio >= 4.5)).map(([ratio, e]) => `${ratio.toFixed(2)} ${e.tagName} ${e.textContent}`);
  },

  // Headings, texts and labels that those who cannot see the page need.
  faults: () => {
    const faults = [];
    const want = (right, e, what) => right || faults.push(`${what}: ${e.outerHTML.slice(0, 120)}`);
    const all = selector => [...document.querySelectorAll(selector)];
    let level = 0;
    for (const heading of all('h1, h2, h3, h4, h5, h6')) {
        const next = Number(heading.tagName[1]);
        want(next <= level + 1, heading, 'a level of headings is skipped');
        want(heading.textContent.trim(), heading, 'empty heading');
        level = next;
    }
    for (const name of ['h1', 'header', 'main', 'footer', 'nav'])
        want(all(name).length === 1, document.body, `one ${name} is wanted`);
    for (const e of all('img')) want(e.alt.trim(), e, 'picture without alternative text');
    for (const e of all('svg')) want(e.getAttribute('aria-hidden') === 'true'
        || e.getAttribute('role') === 'img' && e.getAttribute('aria-label').trim(), e, 'drawing without a label');
    for (const e of all('th')) want(['col', 'row', 'colgroup'].includes(e.scope), e, 'header without scope');
    for (const e of all('table')) want(e.querySelector('th'), e, 'table without headers');
    for (const e of all('[role=region], nav, section')) want(e.getAttribute('aria-label'), e, 'region without a name');
    for (const e of all('ul')) want([...e.children].every(c => c.tagName === 'LI'), e, 'list with other children');
    for (const e of all('a')) want(document.getElementById(e.hash.slice(1)), e, 'link to nothing');
    const ids = all('[id]').map(e => e.id);
    want(new Set(ids).size === ids.length, document.body, 'an id stands twice');
    want(document.documentElement.lang, document.documentElement, 'no language');
    want(document.title, document.head, 'no title');
    return faults;
  },

  // The focused element, and whether it shows that it is.
  focused: () => {
    const e = document.activeElement, style = getComputedStyle(e);
    return [e.getAttribute('href') ?? e.getAttribute('aria-label') ?? e.textContent.trim(),
            style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
  },
})
