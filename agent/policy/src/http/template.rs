//! Path templates: `/orders/{*}/items/{**}`.

/// A path by segments. `{*}` is exactly one segment that is not empty; `{**}`, the last operator,
/// is one or more that may be empty, so that `/a/{**}` matches `/a/` and not `/a`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    head: Vec<Segment>,
    /// What follows `{**}`; `None` without it.
    tail: Option<Vec<Box<str>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Text(Box<str>),
    One,
}

/// A text that is no template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It does not begin with `/`.
    #[error("a template begins with /")]
    Relative,
    /// `*`, `{` or `}` beside an operator, or a segment that is more than its operator.
    #[error("an operator is a whole segment, and *, {{ and }} have no other place in a template")]
    Stray,
    /// An operator after `{**}`.
    #[error("{{**}} is the last operator of a template")]
    NotLast,
}

impl PathTemplate {
    /// True for a path that is meant as a template.
    pub fn is_meant(path: &str) -> bool {
        path.contains("{*}") || path.contains("{**}")
    }

    /// Reads a template.
    pub fn parse(template: &str) -> Result<Self, TemplateError> {
        let rest = template.strip_prefix('/').ok_or(TemplateError::Relative)?;
        let (mut head, mut tail) = (Vec::new(), None::<Vec<Box<str>>>);
        for segment in rest.split('/') {
            match (segment, &mut tail) {
                ("{*}" | "{**}", Some(_)) => return Err(TemplateError::NotLast),
                ("{*}", None) => head.push(Segment::One),
                ("{**}", None) => tail = Some(Vec::new()),
                (text, _) if text.contains(['*', '{', '}']) => return Err(TemplateError::Stray),
                (text, None) => head.push(Segment::Text(text.into())),
                (text, Some(tail)) => tail.push(text.into()),
            }
        }
        Ok(Self { head, tail })
    }

    /// Whether a normalised path fits.
    pub fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else {
            return false;
        };
        let mut segments = rest.split('/');
        let head_fits = self.head.iter().all(|wanted| {
            segments.next().is_some_and(|segment| match wanted {
                Segment::Text(text) => **text == *segment,
                Segment::One => !segment.is_empty(),
            })
        });
        let Some(tail) = &self.tail else {
            return head_fits && segments.next().is_none();
        };
        let mut from_behind = segments.clone().rev();
        let tail_fits = tail
            .iter()
            .rev()
            .all(|wanted| from_behind.next() == Some(wanted));
        // Counted apart: what the tail took may be what the head took.
        head_fits && tail_fits && segments.count() > tail.len()
    }
}
