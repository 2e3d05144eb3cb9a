//! `HackerNewsTools`: top stories and users of Hacker News, over its public API.

use super::site::{Page, Site};
use super::{IntoTools, Tool, ToolContext};
use futures::stream::{self, StreamExt, TryStreamExt};
use outlive_core::{Failure, FailureKind, ToolEffect};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

const HOST: &str = "https://hacker-news.firebaseio.com";
/// How many stories are fetched at the same time.
const FETCHES_MAX: usize = 10;

/// Tools to read Hacker News: `get_top_hackernews_stories` and `get_user_details`, named and answered as in Agno.
///
/// The address is `HACKERNEWS_BASE_URL` if that is set, else the public one.
///
/// ```
/// use outlive_agent::tool::{HackerNewsTools, IntoTools};
/// assert_eq!(HackerNewsTools::default().into_tools().len(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct HackerNewsTools {
    site: Site,
}

impl Default for HackerNewsTools {
    fn default() -> Self {
        Self { site: Site { name: "Hacker News", variable: "HACKERNEWS_BASE_URL", base_url: None } }
    }
}

#[derive(Deserialize, JsonSchema)]
struct TopStories {
    /// How many stories to return, 1 to 100. Defaults to 10.
    #[serde(default)]
    num_stories: StoryCount,
}

/// 1 to 100.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "u32")]
struct StoryCount(u32);

impl Default for StoryCount {
    fn default() -> Self {
        Self(10)
    }
}

impl TryFrom<u32> for StoryCount {
    type Error = String;
    fn try_from(count: u32) -> Result<Self, String> {
        if (1..=100).contains(&count) { Ok(Self(count)) } else { Err(format!("{count} stories, expected 1 to 100")) }
    }
}

#[derive(Deserialize, JsonSchema)]
struct UserDetails {
    /// The name of the Hacker News user.
    username: Username,
}

/// Text that can stand in a path.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
struct Username(String);

impl TryFrom<String> for Username {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if (1..=64).contains(&name.len()) && name.chars().all(legal) {
            Ok(Self(name))
        } else {
            Err(format!("{name:?} is not a user name: expected 1 to 64 letters, digits, _ and -"))
        }
    }
}

impl HackerNewsTools {
    /// Reads from another address, a mirror or a test's.
    pub fn base_url(mut self, url: &str) -> Self {
        self.site.base_url = Some(url.into());
        self
    }

    async fn item(&self, kind: &str, id: &str) -> Result<Value, Failure> {
        self.site.json(Page::get(HOST, &["v0", kind, &format!("{id}.json")])).await
    }

    async fn top_stories(self, count: u32) -> Result<Value, Failure> {
        let ids = self.site.json(Page::get(HOST, &["v0", "topstories.json"])).await?;
        let Value::Array(ids) = ids else {
            return Err(self.site.failure(FailureKind::BadResponse, "sent no list of stories".to_owned()));
        };
        let ids = ids.iter().filter_map(Value::as_u64).take(count as usize);
        let fetches = ids.map(|id| {
            let this = &self;
            async move { this.item("item", &id.to_string()).await }
        });
        let stories: Vec<Value> = stream::iter(fetches.collect::<Vec<_>>()).buffered(FETCHES_MAX).try_collect().await?;
        // A story may have been deleted since the list was made.
        Ok(stories.into_iter().filter(Value::is_object).map(with_username).collect())
    }

    async fn user_details(self, name: String) -> Result<Value, Failure> {
        let user = self.item("user", &name).await?;
        if !user.is_object() {
            return Err(Failure::new(FailureKind::BadRequest, format!("Hacker News has no user named {name:?}")));
        }
        let submitted = user["submitted"].as_array().map_or(0, Vec::len);
        Ok(json!({
            "id": user["id"], "karma": user["karma"], "about": user["about"], "total_items_submitted": submitted,
        }))
    }
}

fn with_username(mut story: Value) -> Value {
    if story["by"].is_string() {
        story["username"] = story["by"].clone();
    }
    story
}

impl IntoTools for HackerNewsTools {
    fn into_tools(self) -> Vec<Tool> {
        let (stories, users) = (self.clone(), self);
        let top_stories = Tool::new(
            "get_top_hackernews_stories",
            "Returns the current top stories of Hacker News, best first.",
            move |arguments: TopStories, _: ToolContext| stories.clone().top_stories(arguments.num_stories.0),
        );
        let user_details = Tool::new(
            "get_user_details",
            "Returns what Hacker News knows of a user: karma, self-description, number of submissions.",
            move |arguments: UserDetails, _: ToolContext| users.clone().user_details(arguments.username.0),
        );
        [top_stories, user_details].map(|tool| tool.effect(ToolEffect::Read)).into()
    }
}
