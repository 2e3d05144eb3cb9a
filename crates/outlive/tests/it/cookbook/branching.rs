//! `05_conditional_branching`: Routers.

use super::{Ask, Kitchen, Recipe, function, mentions, walked};
use outlive::prelude::*;
use outlive::{Media, WorkflowBuilder};
use serde_json::{Value, json};

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "loop_in_choices",
        build: loop_in_choices,
        asks: &[
            Ask {
                run: |workflow| workflow.run("Please refine and polish a post about Rust"),
                told: "Content Router>(draft_writer:agent refinement_loop[refine_step:agent | refine_step:agent])",
                check: |ran| assert_eq!(ran.run.text(), "refined"),
            },
            Ask {
                run: |workflow| workflow.run("A quick one"),
                told: "Content Router>(quick_response)",
                check: |ran| assert_eq!(ran.run.text(), "Quick answer: A quick one"),
            },
            Ask {
                run: |workflow| workflow.run("Something about Rust"),
                told: "Content Router>(draft_writer:agent)",
                check: |ran| assert_eq!(ran.run.text(), "drafted"),
            },
        ],
    },
    Recipe {
        name: "nested_choices",
        build: nested_choices,
        asks: &[
            Ask {
                run: |workflow| workflow.run("Run the sequence"),
                told: "Nested Router>(b then c(step_b:agent step_c:agent))",
                check: |ran| assert_eq!(ran.run.text(), "c"),
            },
            Ask {
                run: |workflow| workflow.run("Run a single one"),
                told: "Nested Router>(step_a:agent)",
                check: |ran| assert_eq!(ran.run.text(), "a"),
            },
        ],
    },
    Recipe {
        name: "router_basic",
        build: router_basic,
        asks: &[
            Ask {
                run: |workflow| workflow.run("What is new in machine learning"),
                told: "research_strategy_router>(research_hackernews:agent) publish_content:agent",
                check: |ran| {
                    assert_eq!(ran.run.step_results.len(), 2);
                    assert!(ran.said("research_hackernews").contains("from 1 tool results"));
                    // What the choice gave back is what is published.
                    assert!(ran.asked[2].to_string().contains(&ran.said("research_hackernews")));
                    assert_eq!(ran.run.text(), "published");
                },
            },
            Ask {
                run: |workflow| workflow.run("How to grow roses"),
                told: "research_strategy_router>(research_web:agent) publish_content:agent",
                check: |ran| assert_eq!(ran.run.text(), "published"),
            },
        ],
    },
    Recipe {
        name: "router_with_loop",
        build: router_with_loop,
        asks: &[
            Ask {
                run: |workflow| workflow.run("Developer tools, and where the industry is going with tech"),
                told: "research_strategy_router>(Deep Tech Research Loop[research_hackernews:agent | \
                       research_hackernews:agent | research_hackernews:agent]) publish_content:agent",
                check: |ran| assert_eq!(ran.run.text(), "published"),
            },
            Ask {
                run: |workflow| workflow.run("Roses"),
                told: "research_strategy_router>(research_web:agent) publish_content:agent",
                check: |ran| assert_eq!(ran.run.text(), "published"),
            },
        ],
    },
    Recipe {
        name: "selector_media_pipeline",
        build: selector_media_pipeline,
        asks: &[
            Ask {
                run: |workflow| workflow.run("Make an image of a forest"),
                told: "Media Type Router>(image_generation(generate_image describe_image:agent))",
                check: |ran| {
                    assert_eq!(ran.run.text(), "mushrooms");
                    assert!(
                        ran.asked[0].to_string().contains("data:image/png;base64,iVBORw0KGgo="),
                        "it saw the image"
                    );
                    assert_eq!(ran.run.images.as_ref().map(Vec::len), Some(1));
                },
            },
            Ask {
                run: |workflow| workflow.run("Make a video of a forest"),
                told: "Media Type Router>(video_generation(generate_video describe_video:agent))",
                check: |ran| {
                    assert_eq!(ran.run.text(), "slow");
                    assert_eq!(ran.run.videos.as_ref().map(Vec::len), Some(1));
                },
            },
            // What is no text goes to the images.
            Ask {
                run: |workflow| workflow.run(json!({ "topic": "video", "content_type": "image" })),
                told: "Media Type Router>(image_generation(generate_image describe_image:agent))",
                check: |ran| assert_eq!(ran.run.text(), "mushrooms"),
            },
        ],
    },
    // `selector_types` has the workflows of the three above and below: a selector may give a name, or several.
    Recipe {
        name: "selector_types, string_selector",
        build: string_selector,
        asks: &[
            Ask {
                run: |workflow| workflow.run("Tell me about AI"),
                told: "Topic Router>(Tech Research:agent)",
                check: |ran| assert_eq!(ran.run.text(), "bits"),
            },
            Ask {
                run: |workflow| workflow.run("Tell me about the stock market"),
                told: "Topic Router>(Business Research:agent)",
                check: |ran| assert_eq!(ran.run.text(), "shares"),
            },
            Ask {
                run: |workflow| workflow.run("Tell me about roses"),
                told: "Topic Router>(General Research:agent)",
                check: |ran| assert_eq!(ran.run.text(), "thorns"),
            },
        ],
    },
    Recipe {
        name: "selector_types, step_choices_parameter",
        build: step_choices_parameter,
        asks: &[
            Ask {
                run: |workflow| workflow.run("The full treatment"),
                told: "Dynamic Router>(researcher:agent writer:agent reviewer:agent)",
                check: |ran| {
                    assert_eq!(ran.run.text(), "reviewed");
                    // Each choice works on what the one before it gave back.
                    assert!(ran.asked[2].to_string().contains("written"));
                },
            },
            Ask {
                run: |workflow| workflow.run("Write it"),
                told: "Dynamic Router>(writer:agent)",
                check: |ran| assert_eq!(ran.run.text(), "written"),
            },
        ],
    },
];

fn router_basic(kitchen: &Kitchen) -> WorkflowBuilder {
    let hackernews = kitchen.agent("Hacker News Researcher", "Look for discussions.").tool(kitchen.search("stories"));
    let web = kitchen.agent("Web Researcher", "Look everywhere.").tool(kitchen.search("web"));
    let router = Router::new("research_strategy_router")
        .description("One source, by topic")
        .select(|question| match mentions(&question.text(), &["machine learning", "software", "startup"]) {
            true => "research_hackernews",
            false => "research_web",
        })
        .choice(Step::new("research_hackernews").agent(hackernews))
        .choice(Step::new("research_web").agent(web));
    Workflow::builder("Research by Topic").step(router).step(publish(kitchen))
}

fn publish(kitchen: &Kitchen) -> Step {
    Step::new("publish_content").agent(kitchen.agent("Content Publisher", "Publish it. REPLY=published"))
}

fn router_with_loop(kitchen: &Kitchen) -> WorkflowBuilder {
    let hackernews = kitchen.agent("Hacker News Researcher", "Look for discussions.").tool(kitchen.search("stories"));
    let web = kitchen.agent("Web Researcher", "Look everywhere.").tool(kitchen.search("web"));
    let deep = Loop::new("Deep Tech Research Loop")
        .step(Step::new("research_hackernews").agent(hackernews))
        .until(|question| question.outputs.iter().any(|output| output.text().len() > 300))
        .max_iterations(3);
    let router = Router::new("research_strategy_router")
        .select(|question| {
            let topic = question.text();
            let is_deep = mentions(&topic, &["venture capital"])
                || (mentions(&topic, &["tech"]) && topic.split_whitespace().count() > 3);
            if is_deep { "Deep Tech Research Loop" } else { "research_web" }
        })
        .choice(Step::new("research_web").agent(web))
        .choice(deep);
    Workflow::builder("Adaptive Research").step(router).step(publish(kitchen))
}

/// What is made here are eight bytes, under the type that the step says.
fn selector_media_pipeline(kitchen: &Kitchen) -> WorkflowBuilder {
    let made = |mime_type: &str| Media {
        content: Some("iVBORw0KGgo=".into()),
        mime_type: Some(mime_type.into()),
        ..Media::default()
    };
    let (image, video) = (made("image/png"), made("video/mp4"));
    let image = function("generate_image", move |_| StepOutput::new("a forest").images([image.clone()]));
    let video = function("generate_video", move |_| StepOutput::new("a pan").videos([video.clone()]));
    let router = Router::new("Media Type Router")
        .select(|question| match question.input.input.as_deref() {
            Some(Value::String(text)) if mentions(text, &["video"]) => "video_generation",
            _ => "image_generation",
        })
        .choice(Steps::new("image_generation").step(image).step(kitchen.says("describe_image", "mushrooms")))
        .choice(Steps::new("video_generation").step(video).step(kitchen.says("describe_video", "slow")));
    Workflow::builder("AI Media Generation Workflow").step(router)
}

fn string_selector(kitchen: &Kitchen) -> WorkflowBuilder {
    let router = Router::new("Topic Router")
        .select(|question| match question.input_text() {
            topic if mentions(&topic, &["tech", "ai", "software"]) => "Tech Research",
            topic if mentions(&topic, &["business", "market", "finance"]) => "Business Research",
            _ => "General Research",
        })
        .choice(kitchen.says("Tech Research", "bits"))
        .choice(kitchen.says("Business Research", "shares"))
        .choice(kitchen.says("General Research", "thorns"));
    Workflow::builder("Expert Routing").step(router)
}

fn step_choices_parameter(kitchen: &Kitchen) -> WorkflowBuilder {
    let agent = |name, word: &str| kitchen.agent(name, &format!("Do your part. REPLY={word}"));
    let router = Router::new("Dynamic Router")
        .select(|question| {
            let asked = question.input_text();
            let named = |name: &str| question.choices.iter().filter(|choice| &***choice == name).cloned().collect();
            match () {
                () if mentions(&asked, &["full"]) => question.choices.clone(),
                () if mentions(&asked, &["write"]) => named("writer"),
                () => named("researcher"),
            }
        })
        .choice(agent("researcher", "researched"))
        .choice(agent("writer", "written"))
        .choice(agent("reviewer", "reviewed"));
    Workflow::builder("Dynamic Routing").step(router)
}

fn loop_in_choices(kitchen: &Kitchen) -> WorkflowBuilder {
    let quick = function("quick_response", |input| format!("Quick answer: {}", input.input_text()));
    let refine = Step::new("refine_step").agent(kitchen.agent("refiner", "Refine the draft. REPLY=refined"));
    let router = Router::new("Content Router")
        .select(|question| {
            let asked = question.input_text();
            let [quick, draft, refine] = &question.choices[..] else { return vec![] };
            match () {
                () if mentions(&asked, &["quick"]) => vec![quick.clone()],
                () if mentions(&asked, &["refine", "polish"]) => vec![draft.clone(), refine.clone()],
                () => vec![draft.clone()],
            }
        })
        .choice(quick)
        .choice(kitchen.agent("draft_writer", "Write a draft. REPLY=drafted"))
        .choice(Loop::new("refinement_loop").step(refine).max_iterations(2));
    Workflow::builder("Loop Choice Routing").step(router)
}

fn nested_choices(kitchen: &Kitchen) -> WorkflowBuilder {
    let agent = |name, word: &str| kitchen.agent(name, &format!("Do your part. REPLY={word}"));
    let router = Router::new("Nested Router")
        .select(|question| {
            let single = mentions(&question.input_text(), &["single"]);
            question.choices[usize::from(!single)].to_string()
        })
        .choice(agent("step_a", "a"))
        .choice(Steps::new("b then c").step(agent("step_b", "b")).step(agent("step_c", "c")));
    Workflow::builder("Nested Choices Routing").step(router)
}

walked!(RECIPES);
