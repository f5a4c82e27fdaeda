"""The pattern language: text to tree, tree to plan, plan and events to matches."""
