// From file://, browsers start no worker and read no file, so the index is loaded as a script and searched in the page.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor() {
      const load = (name) => new Promise((done) => {
        const script = document.createElement("script");
        script.src = `${base_url}/search/${name}`;
        script.onload = done;
        document.head.append(script);
      });
      this.ready = Promise.all([load("lunr.js"), load("search_index.js")]).then(() => {
        const { config, docs } = window.searchIndex;
        lunr.tokenizer.separator = new RegExp(config.separator);
        this.pages = new Map(docs.map((page) => [page.location, page]));
        this.index = lunr(function () {
          ["title", "text"].forEach((name) => this.field(name));
          this.ref("location");
          docs.forEach((page) => this.add(page));
        });
        return config;
      });
    }
    async postMessage({ init, query }) {
      const config = await this.ready;
      const answer = (data) => this.onmessage({ data });
      if (init) {
        answer({ config });
        answer({ allowSearch: true });
        return;
      }
      const pages = this.index.search(query).map(({ ref }) => this.pages.get(ref));
      answer({ results: pages.map((page) => ({ ...page, summary: page.text.substring(0, 200) })) });
    }
  };
}
