(() => {
  const live = document.getElementById("live");
  const lost = document.getElementById("lost");

  // Changes what differs and nothing else: focus, selection and how far a table is scrolled stay.
  const morph = (old, fresh) => {
    const before = [...old.childNodes];
    const after = [...fresh.childNodes];
    after.forEach((node, place) => {
      const there = before[place];
      if (!there) {
        old.append(node);
      } else if (there.nodeName !== node.nodeName) {
        there.replaceWith(node);
      } else if (node.nodeType === Node.TEXT_NODE) {
        if (there.data !== node.data) there.data = node.data;
      } else {
        for (const { name } of [...there.attributes]) if (!node.hasAttribute(name)) there.removeAttribute(name);
        for (const { name, value } of node.attributes) {
          if (there.getAttribute(name) !== value) there.setAttribute(name, value);
        }
        morph(there, node);
      }
    });
    before.slice(after.length).forEach(node => node.remove());
  };

  const look = async () => {
    try {
      const answer = await fetch("verdict.json", { cache: "no-store", signal: AbortSignal.timeout(10000) });
      const state = await answer.json();
      const fresh = document.createElement("template");
      fresh.innerHTML = state.body; // rendered by the server, which escapes every value
      morph(live, fresh.content);
      document.title = state.title;
      lost.hidden = true;
    } catch {
      lost.hidden = false;
    }
    setTimeout(look, 2000);
  };
  setTimeout(look, 2000);
})();
