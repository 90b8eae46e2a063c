//! Markdown as far as our documents use it: fenced blocks, headings and their anchors, links, code in a line.

use std::collections::HashMap;

/// A fenced block.
pub struct Block {
    /// What stands behind the fence: the language, then our marks.
    pub info: String,
    /// Its text, every line with its end.
    pub text: String,
    /// The line of the opening fence, from 1.
    pub line: usize,
}

/// A page in parts.
pub struct Page {
    pub blocks: Vec<Block>,
    /// Lines outside of blocks, with their numbers.
    pub lines: Vec<(usize, String)>,
}

impl Page {
    pub fn parse(text: &str) -> Page {
        let (mut page, mut open) = (Page { blocks: Vec::new(), lines: Vec::new() }, None::<Block>);
        for (line, text) in (1..).zip(text.lines()) {
            match (&mut open, text.trim_start().strip_prefix("```")) {
                (None, Some(info)) => open = Some(Block { info: info.trim().to_owned(), text: String::new(), line }),
                (None, None) => page.lines.push((line, text.to_owned())),
                (Some(_), Some(_)) => page.blocks.extend(open.take()),
                (Some(block), None) => {
                    block.text += text;
                    block.text.push('\n');
                }
            }
        }
        assert!(open.is_none(), "a block is not closed");
        page
    }

    /// The anchors of its headings, as code hosts make them.
    pub fn anchors(&self) -> Vec<String> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let headings = self.lines.iter().filter_map(|(_, line)| {
            let text = line.trim_start_matches('#');
            (line.starts_with('#') && text.starts_with(' ')).then(|| text.trim())
        });
        let mut anchors = Vec::new();
        for heading in headings {
            let keep = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let slug: String =
                heading.to_lowercase().chars().filter(|c| keep(*c)).map(|c| if c == ' ' { '-' } else { c }).collect();
            let count = seen.entry(slug.clone()).or_default();
            anchors.push(if *count == 0 { slug } else { format!("{slug}-{count}") });
            *count += 1;
        }
        anchors
    }

    /// Targets of `[text](target)`, with their lines. Code in a line has none.
    pub fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (line, text) in &self.lines {
            let plain: String = text.split('`').step_by(2).collect();
            let mut rest = plain.as_str();
            while let Some((_, behind)) = rest.split_once("](") {
                let (target, after) = behind.split_once(')').unwrap_or((behind, ""));
                links.push((*line, target.to_owned()));
                rest = after;
            }
        }
        links
    }

    /// What stands in backticks in a line, with its line.
    pub fn code(&self) -> Vec<(usize, String)> {
        let spans = |(line, text): &(usize, String)| {
            let line = *line;
            text.split('`').skip(1).step_by(2).map(|code| (line, code.to_owned())).collect::<Vec<_>>()
        };
        self.lines.iter().flat_map(spans).collect()
    }
}

#[test]
fn blocks_headings_links_and_code_are_found() {
    let page = Page::parse(
        "# One `two`: three\n[a](b.md#c) `[x](y)`\n```toml cluster\n# no heading\n[n](o)\n```\n  ```sh\n  ls\n  ```\n## One two three\n",
    );
    assert_eq!(page.anchors(), ["one-two-three", "one-two-three-1"]);
    assert_eq!(page.links(), [(2, "b.md#c".to_owned())]);
    assert_eq!((page.blocks[0].info.as_str(), page.blocks[0].line), ("toml cluster", 3));
    assert_eq!(page.blocks[0].text, "# no heading\n[n](o)\n");
    assert_eq!(page.code(), [(1, "two".to_owned()), (2, "[x](y)".to_owned())]);
}
