{{- define "wst.labels" -}}
app.kubernetes.io/name: wst
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "wst.selector" -}}
app.kubernetes.io/name: wst
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "wst.name" -}}
{{ .Release.Name }}-wst
{{- end }}
